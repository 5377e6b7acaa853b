"""Limits of grammars, which may come from strangers: checked before an engine sees them."""

import json
from dataclasses import dataclass

from outrider.core.errors import OptionError
from outrider.core.values import JsonValue
from outrider.sampling.constraint import Constraint

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
"""Keywords whose numbers an engine unrolls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarLimits:
    """How large a grammar may be.

    Attributes:
        size: bytes of its text.
        depth: levels of a schema inside each other.
        properties: all properties of a schema together.
        count: the largest number of a keyword such as `minItems`. Larger upper limits are accepted,
            since engines leave them out of sight.
    """

    size: int = 128 << 10
    depth: int = 64
    properties: int = 4096
    count: int = 100_000

    def check(self, constraint: Constraint) -> None:
        """Raise `OptionError` if a limit is exceeded."""
        size = len(constraint.source.encode())
        if size > self.size:
            raise OptionError(
                f"the {constraint.kind} constraint has {size} bytes",
                hint=f"At most {self.size} are read",
            )
        if constraint.kind == "json":
            self._check_schema(json.loads(constraint.source))

    def _check_schema(self, schema: JsonValue) -> None:
        properties, waiting = 0, [(schema, 1)]
        while waiting:
            part, depth = waiting.pop()
            if depth > self.depth:
                raise OptionError(
                    "the JSON schema is nested too deeply",
                    hint=f"At most {self.depth} levels are read",
                )
            if isinstance(part, list):
                waiting += [(each, depth + 1) for each in part]
            if not isinstance(part, dict):
                continue
            own = part.get("properties")
            properties += len(own) if isinstance(own, dict) else 0
            if properties > self.properties:
                raise OptionError(
                    "the JSON schema has too many properties",
                    hint=f"At most {self.properties} are read",
                )
            self._check_keywords(part)
            waiting += [(each, depth + 1) for each in part.values()]

    def _check_keywords(self, part: dict[str, JsonValue]) -> None:
        reference = part.get("$ref")
        if isinstance(reference, str) and "://" in reference.split("#")[0]:
            raise OptionError(
                f"the JSON schema refers to {reference[:80]}", hint="Put that schema into $defs"
            )
        for name in _COUNTS:
            number = part.get(name)
            if isinstance(number, int | float) and name.startswith("min") and number > self.count:
                raise OptionError(
                    f"{name} of the JSON schema is {number:g}", hint=f"Give at most {self.count}"
                )
