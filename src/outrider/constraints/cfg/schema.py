"""JSON schemas as context-free grammars.

Read are `type`, `properties`, `required`, `additionalProperties`, `items`, `minItems` and
`maxItems` up to 64, `enum`, `const`, `anyOf`, and `$ref` inside the schema. Properties stand in the
order of the schema, others behind them, as llguidance has it. Anything else is refused by name, but
for what says nothing about values (`title`, `description`, `default` and the like).
"""

import json
from collections.abc import Callable, Mapping

from outrider.constraints.cfg.grammar import Grammar, Rules, Symbol
from outrider.constraints.cfg.json_terminals import (
    BOOLEAN,
    INTEGER,
    NULL,
    NUMBER,
    STRING,
    JsonTerminals,
    any_value,
    spelled,
)
from outrider.constraints.json_schema import kinds_of, referred
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

_ABOUT = ("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default")
_NOTES = frozenset((*_ABOUT, "examples", "deprecated", "readOnly", "writeOnly"))
"""Keywords that say nothing about values."""
_SCALARS = {"string": STRING, "number": NUMBER, "integer": INTEGER, "boolean": BOOLEAN}
_SCALARS["null"] = NULL
_OF_OBJECTS = frozenset(("properties", "required", "additionalProperties"))
_OF_ARRAYS = frozenset(("items", "minItems", "maxItems"))
_OF_VALUES = frozenset(("enum", "const", "anyOf", "$ref"))
_KNOWN = _NOTES | _OF_OBJECTS | _OF_ARRAYS | _OF_VALUES | {"type"}
_MOST_ITEMS = 64


def schema_grammar(schema: JsonValue, whitespace: str | None = None) -> Grammar:
    """Return the grammar of the texts of a JSON schema.

    Args:
        schema: the schema, as values.
        whitespace: see `Constraint`.

    Raises:
        OptionError: a keyword is not read here; the error names it.
    """
    reader = _Schema(schema, whitespace)
    return reader.rules.build(reader.symbol(schema))


def json_grammar(whitespace: str | None = None) -> Grammar:
    """Return the grammar of all JSON values."""
    return schema_grammar(True, whitespace)


class _Schema:
    """Rules for the parts of one schema."""

    def __init__(self, root: JsonValue, whitespace: str | None) -> None:
        self.root, self.rules = root, Rules()
        self.terminals = JsonTerminals(self.rules, whitespace)
        self.any, self.any_object, self.any_array = any_value(self.terminals)
        self.known = dict[str, Symbol]()
        """The symbols of schemas, by their text, also while their rules are made."""

    def symbol(self, schema: JsonValue) -> Symbol:
        """Return the nonterminal of the values of a schema. Raises `OptionError`."""
        if isinstance(schema, bool):
            return self.any if schema else self.rules.new()
        if not isinstance(schema, Mapping):
            raise OptionError("a part of the JSON schema is no schema", hint="Give an object")
        text = json.dumps(schema)
        if text not in self.known:
            made = self.known[text] = self.rules.new()
            self._add(made, schema)
        return self.known[text]

    def _add(self, made: Symbol, schema: Mapping[str, JsonValue]) -> None:
        for keyword in schema:
            if keyword not in _KNOWN:
                raise OptionError(
                    f"the keyword {keyword!r} of the JSON schema is not read by grammars with gaps",
                    hint="Leave it out, or decode from left to right",
                )
        own = [keyword for keyword in schema if keyword in _OF_VALUES]
        if not own:
            self._add_types(made, schema)
            return
        others = [keyword for keyword in schema if keyword not in _NOTES and keyword != own[0]]
        if own[0] in ("enum", "const"):
            others = [keyword for keyword in others if keyword != "type"]
        if others:
            raise OptionError(
                f"the keywords {own[0]!r} and {others[0]!r} of the JSON schema stand together",
                hint="Write one of them",
            )
        match own[0]:
            case "$ref":
                self.rules.add(made, (self._referred(schema["$ref"]),))
            case "anyOf":
                for part in _list(schema, "anyOf"):
                    self.rules.add(made, (self.symbol(part),))
            case keyword:
                values = [schema["const"]] if keyword == "const" else _list(schema, "enum")
                kinds = _types(schema)
                for value in values:
                    if kinds is None or not kinds.isdisjoint(kinds_of(value)):
                        self.rules.add(made, (self._value(value),))

    def _referred(self, place: JsonValue) -> Symbol:
        found = self.root if place == "#" else None
        if found is None and isinstance(self.root, Mapping):
            found = referred(place, self.root)
        if found is None:
            raise OptionError(f"the JSON schema refers to {str(place)[:80]}, which is not in it")
        return self.symbol(found)

    def _value(self, value: JsonValue) -> Symbol:
        """Return the nonterminal of one value."""
        terminals, rules = self.terminals, self.rules
        if isinstance(value, Mapping):
            parts = [rules.new((terminals.key(k), self._value(v))) for k, v in value.items()]
            signs = "{}"
        elif isinstance(value, list):
            parts, signs = [self._value(each) for each in value], "[]"
        else:
            return rules.new((terminals.of(spelled(value), json.dumps(value)),))
        if not parts:
            return rules.new((terminals.empty(signs),))
        inner = [each for part in parts for each in (terminals.comma(), part)][1:]
        return rules.new((terminals.open(signs[0]), *inner, terminals.close(signs[1])))

    def _add_types(self, made: Symbol, schema: Mapping[str, JsonValue]) -> None:
        kinds = _types(schema) or frozenset([*_SCALARS, "object", "array"])
        if {"number", "integer"} <= kinds:
            kinds -= {"integer"}
        for kind in sorted(kinds):
            if kind in _SCALARS:
                self.rules.add(made, (self.terminals.of(_SCALARS[kind], kind),))
        if "object" in kinds:
            self._part(made, schema, _OF_OBJECTS, self.any_object, self._add_object)
        if "array" in kinds:
            self._part(made, schema, _OF_ARRAYS, self.any_array, self._add_array)

    def _part(
        self,
        made: Symbol,
        schema: Mapping[str, JsonValue],
        keywords: frozenset[str],
        free: Symbol,
        add: Callable[[Symbol, Mapping[str, JsonValue]], None],
    ) -> None:
        """Add objects or arrays: all of them if no keyword limits them."""
        if keywords.isdisjoint(schema):
            self.rules.add(made, (free,))
        else:
            add(made, schema)

    def _add_object(self, made: Symbol, schema: Mapping[str, JsonValue]) -> None:
        """Add objects: `after[True]` goes on behind a member, `after[False]` behind the brace."""
        terminals, rules = self.terminals, self.rules
        properties, required = schema.get("properties", {}), _list(schema, "required")
        if not isinstance(properties, Mapping):
            raise OptionError("properties of the JSON schema is no object")
        more = schema.get("additionalProperties", True)
        listed = {**properties, **{str(name): more for name in required if name not in properties}}
        after = {True: rules.new((terminals.close("}"),)), False: rules.new()}
        if more is not False:
            pair = rules.new((terminals.key(None, tuple(listed)), self.symbol(more)))
            members = rules.plus(pair, terminals.comma())
            rules.add(after[True], (terminals.comma(), members, terminals.close("}")))
            rules.add(after[False], (members, terminals.close("}")))
        for name, part in reversed(listed.items()):
            skipped, pair = after, (terminals.key(name), self.symbol(part), after[True])
            after = {True: rules.new((terminals.comma(), *pair)), False: rules.new(pair)}
            if name not in required:
                for behind in (True, False):
                    rules.add(after[behind], (skipped[behind],))
        rules.add(made, (terminals.open("{"), after[False]))
        if not required:
            rules.add(made, (terminals.empty("{}"),))

    def _add_array(self, made: Symbol, schema: Mapping[str, JsonValue]) -> None:
        terminals, rules = self.terminals, self.rules
        item = self.symbol(schema.get("items", True))
        low, high = _count(schema, "minItems") or 0, _count(schema, "maxItems")
        if low == 0:
            rules.add(made, (terminals.empty("[]"),))
        if high == 0:
            return
        more = rules.new((terminals.comma(), item))
        needed = [item, *[more] * (max(low, 1) - 1)]
        if high is None:
            rest = rules.star(more)
        else:
            rest = rules.new(())
            for _ in range(high - max(low, 1)):
                rest = rules.new((), (more, rest))
        if high is None or high >= max(low, 1):
            rules.add(made, (terminals.open("["), *needed, rest, terminals.close("]")))


def _types(schema: Mapping[str, JsonValue]) -> frozenset[str] | None:
    """Return the types that a schema names; None if it names none."""
    given = schema.get("type")
    if given is None:
        return None
    names = given if isinstance(given, list) else [given]
    for name in names:
        if name not in _SCALARS and name not in ("object", "array"):
            raise OptionError(f"the JSON schema has the type {str(name)[:40]!r}")
    return frozenset(str(name) for name in names)


def _list(schema: Mapping[str, JsonValue], keyword: str) -> list[JsonValue]:
    value = schema.get(keyword, [])
    if not isinstance(value, list):
        raise OptionError(f"{keyword} of the JSON schema is no list")
    return value


def _count(schema: Mapping[str, JsonValue], keyword: str) -> int | None:
    value = schema.get(keyword)
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value <= _MOST_ITEMS:
        raise OptionError(
            f"{keyword} of the JSON schema is {str(value)[:40]}",
            hint=f"0 to {_MOST_ITEMS} are read",
        )
    return value
