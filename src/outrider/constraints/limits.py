"""Limits of grammars, which may come from strangers: checked before an engine sees them."""

import json
from dataclasses import dataclass
from typing import TypeGuard

from outrider.constraints.json_schema import parts_of
from outrider.core.checks import shown
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue
from outrider.sampling.constraint import Constraint

_COUNTS = ("minItems", "minLength", "minProperties")
"""Keywords whose numbers an engine unrolls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarLimits:
    """How large a grammar may be.

    Attributes:
        size: bytes of its text. 256 KiB refuse 7 of the 11,305 schemas of JSONSchemaBench, and
            128 KiB would refuse 76, most of them of Kubernetes.
        depth: levels of a schema inside each other.
        properties: all properties of a schema together.
        count: the largest number of a keyword such as `minItems`. Upper limits such as `maxItems`
            may be larger: the engine does not unroll them.

    A `$ref` to another address is refused, unless the schema itself has that `$id`.
    """

    size: int = 256 << 10
    depth: int = 64
    properties: int = 4096
    count: int = 100_000

    def check(self, constraint: Constraint) -> None:
        """Raise `OptionError` if a limit is exceeded."""
        try:
            size = len(constraint.source.encode())
        except UnicodeEncodeError:
            raise OptionError(
                f"the {constraint.kind} constraint holds half of a pair of surrogates",
                hint="Give valid Unicode",
            ) from None
        if size > self.size:
            raise OptionError(
                f"the {constraint.kind} constraint has {size} bytes",
                hint=f"At most {self.size} are read",
            )
        if constraint.kind == "json":
            try:
                schema = json.loads(constraint.source)
            except (ValueError, RecursionError) as error:
                raise OptionError(
                    f"the JSON schema is no JSON: {error}", hint="Give an object of JSON"
                ) from None
            self._check_schema(schema)

    def _check_schema(self, schema: JsonValue) -> None:
        properties, references, names = 0, [], set[str]()
        for part, depth in parts_of(schema):
            if depth > self.depth:
                raise OptionError(
                    "the JSON schema is nested too deeply",
                    hint=f"At most {self.depth} levels are read",
                )
            own = part.get("properties")
            properties += len(own) if isinstance(own, dict) else 0
            if properties > self.properties:
                raise OptionError(
                    "the JSON schema has too many properties",
                    hint=f"At most {self.properties} are read",
                )
            references.append(part.get("$ref"))
            own_names = (part.get("$id"), part.get("id"))
            names |= {name.split("#")[0] for name in own_names if _text(name)}
            self._check_counts(part)
        for reference in references:
            place = reference.split("#")[0] if _text(reference) else ""
            if "://" in place and place not in names:
                raise OptionError(
                    f"the JSON schema refers to {reference[:80]}", hint="Put that schema into $defs"
                )

    def _check_counts(self, part: dict[str, JsonValue]) -> None:
        for name in _COUNTS:
            number = part.get(name)
            if isinstance(number, int | float) and number > self.count:
                raise OptionError(
                    f"{name} of the JSON schema is {shown(number)}",
                    hint=f"Give at most {self.count}",
                )


def _text(value: JsonValue) -> TypeGuard[str]:
    return isinstance(value, str)
