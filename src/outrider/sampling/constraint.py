"""What a request may write: a grammar, as the user gives it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from outrider.core.checks import shown
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

Kind = Literal["json", "regex", "lark", "gbnf"]
"""`json`: a JSON schema. `lark`: a grammar as llguidance reads it. `gbnf`: one of llama.cpp."""
Unsupported = Literal["refuse", "coerce", "lenient"]
"""What becomes of parts of a schema that cannot be enforced: the schema is refused; `oneOf` is read
as `anyOf`; or all such parts are ignored."""

Engine = Literal["llguidance", "xgrammar"]
"""What reads the grammar. xgrammar is an extra package, ignores parts of a schema that it cannot
enforce, and is never used unless it is named."""

SchemaSource = Mapping[str, JsonValue] | str | bool | type
"""A JSON schema: as a mapping, as text, or a model of pydantic, which says its own."""

SUGAR = ("json_schema", "json", "regex", "choice", "grammar", "gbnf")
"""Options of a request that are short for `constraint`."""

ENGINES: tuple[Engine, ...] = ("llguidance", "xgrammar")
_UNSUPPORTED = ("refuse", "coerce", "lenient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Where a constraint begins and ends: the text around it is free.

    Attributes:
        open: the constraint holds after this text, which may be that of a special token.
        close: text that follows what is constrained; then the text is free again. None: the
            constraint holds to the end of the text.
        repeat: after `close`, the next `open` begins the constraint again.
        required: the text may not end before `open` was written.

    Raises:
        OptionError: the values do not fit.
    """

    open: str
    close: str | None = None
    repeat: bool = False
    required: bool = False

    def __post_init__(self) -> None:
        for name, value in (("open", self.open), ("close", self.close)):
            given: object = value
            wanted = isinstance(given, str) and bool(given)
            if not wanted and not (name == "close" and given is None):
                raise OptionError(f"{name} of the gate is {shown(value)}", hint="Give a text")
        if self.repeat and self.close is None:
            raise OptionError("a gate that repeats has no close", hint="Give close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A grammar of the text.

    Attributes:
        kind: how `source` is written.
        source: the grammar as text; a schema as JSON.
        whitespace: for schemas, a regular expression of the white space between tokens of JSON,
            `compact` for none, or `flexible` for any. None: up to 16 spaces and line ends, so that
            a model can indent, but not write line ends until its limit.
        unsupported: for schemas, see `Unsupported`.
        gate: where in the text the grammar begins and ends; None: the whole text follows it.
        engine: what reads the grammar.

    Raises:
        OptionError: the values do not fit.
    """

    kind: Kind
    source: str
    whitespace: str | None = None
    unsupported: Unsupported = "refuse"
    gate: Gate | None = None
    engine: Engine = "llguidance"

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise OptionError(
                f"unknown engine of grammars {shown(self.engine)}",
                hint=f"Give {' or '.join(ENGINES)}",
            )
        if self.kind not in ("json", "regex", "lark", "gbnf"):
            raise OptionError(
                f"unknown kind of constraint {self.kind!r}", hint="Give json, regex, lark or gbnf"
            )
        if not isinstance(self.source, str) or not self.source.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(
                f"the {self.kind} constraint is {shown(self.source)}", hint="Give a text"
            )
        if self.unsupported not in _UNSUPPORTED:
            raise OptionError(
                f"unsupported is {shown(self.unsupported)}",
                hint=f"Give one of {', '.join(_UNSUPPORTED)}",
            )
        given: object = self.whitespace
        if given is not None and not (isinstance(given, str) and given):
            raise OptionError(
                f"whitespace is {shown(self.whitespace)}",
                hint="Give compact, flexible, or a regular expression",
            )
        if self.kind != "json" and (self.whitespace or self.unsupported != "refuse"):
            raise OptionError(
                f"whitespace and unsupported are options of JSON schemas, not of {self.kind}",
                hint="Leave them out",
            )

    def within(self, gate: Gate | None) -> "Constraint":
        """Return the same grammar for a part of the text; for the whole text without a gate."""
        return replace(self, gate=gate)

    def by(self, engine: Engine) -> "Constraint":
        """Return the same grammar, read by another engine. Raises `OptionError`."""
        return replace(self, engine=engine)

    @property
    def enforced(self) -> bool:
        """Whether each text of the grammar is a valid one: false for schemas of which parts may be
        ignored or read in another way."""
        strict = self.unsupported == "refuse" and self.engine == "llguidance"
        return self.kind != "json" or strict

    @classmethod
    def json_schema(
        cls,
        schema: SchemaSource,
        *,
        whitespace: str | None = None,
        unsupported: Unsupported = "refuse",
    ) -> "Constraint":
        """Return the constraint of a JSON schema.

        Args:
            schema: a mapping, its text, or a model of pydantic.
            whitespace: see `Constraint`.
            unsupported: see `Constraint`.

        Raises:
            OptionError: it is no schema.
        """
        return cls(
            kind="json",
            source=_schema_text(schema),
            whitespace=whitespace,
            unsupported=unsupported,
        )

    @classmethod
    def regex(cls, pattern: str) -> "Constraint":
        """Return the constraint of a regular expression, which the whole text matches (syntax of
        Rust's `regex`, without look-around). Raises `OptionError`."""
        return cls(kind="regex", source=pattern)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> "Constraint":
        """Return the constraint that the text is one of `texts`. Raises `OptionError`."""
        given: object = texts
        listed = isinstance(given, Sequence) and not isinstance(given, str)
        if not listed or not texts or not all(isinstance(t, str) and t for t in texts):
            raise OptionError(f"choice is {shown(texts)}", hint='Give texts, such as ["yes", "no"]')
        quoted = " | ".join(json.dumps(text, ensure_ascii=False) for text in dict.fromkeys(texts))
        return cls(kind="lark", source=f"start: {quoted}\n")

    @classmethod
    def of(cls, options: Mapping[str, JsonValue]) -> "Constraint | None":
        """Return the constraint that options of a request describe: one of `SUGAR`, or `constraint`
        itself; None if there is none.

        Raises:
            OptionError: two are given, or one is not valid.
        """
        given = [n for n in (*SUGAR, "constraint") if options.get(n) not in (None, False)]
        if len(given) > 1:
            raise OptionError(
                f"{given[0]} and {given[1]} are given together", hint="Give one constraint"
            )
        if not given:
            return None
        [name], value = given, options[given[0]]
        if name == "constraint":
            if not isinstance(value, cls):
                raise OptionError(f"constraint is {shown(value)}", hint="Give a Constraint")
            return value
        if name == "json":
            if value is not True:
                raise OptionError(f"json is {shown(value)}", hint="Give true, or json_schema=...")
            return cls.json_schema({"type": "object"})
        if name == "json_schema":
            return cls.json_schema(value)
        if name == "choice":
            return cls.choice(value)
        if not isinstance(value, str):
            raise OptionError(f"{name} is {shown(value)}", hint="Give a text")
        kinds: dict[str, Kind] = {"regex": "regex", "grammar": "lark", "gbnf": "gbnf"}
        return cls(kind=kinds[name], source=value)


def _schema_text(schema: JsonValue) -> str:
    """Return a schema as JSON."""
    if (make := getattr(schema, "model_json_schema", None)) is not None:
        schema = make()
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise OptionError(
                f"the JSON schema is no JSON: {error}", hint="Give an object of JSON"
            ) from None
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise OptionError(
            f"the JSON schema is {shown(schema)}",
            hint="Give an object, its text, or a model of pydantic",
        )
    try:
        return json.dumps(dict(schema), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(
            f"the JSON schema is no JSON: {error}", hint="Give values that JSON has"
        ) from None
