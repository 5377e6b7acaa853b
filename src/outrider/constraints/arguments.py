"""Grammars of the arguments of a tool: as JSON, as keywords of Python, or as tags."""

import json
import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from outrider.constraints.json_schema import WHITESPACE, parts_of, referred, types_of
from outrider.constraints.lark import pattern, quoted
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

Schema = Mapping[str, JsonValue]
Write = Callable[["Writing", str, str, Schema, bool], None]

_SAID = ("title", "description", "default", "examples", "deprecated", "$schema", "$comment", "$id")
"""Keywords that restrict nothing."""
_FIELDS = ("type", "properties", "required", "additionalProperties", "$defs", "definitions")
_DEFINITIONS = ("$defs", "definitions")
_LENGTHS = ("minLength", "maxLength")
_OF_TEXT = ("type", "enum", "const", "nullable", *_LENGTHS)

_VALUE_END = "</parameter>"


@dataclass(slots=True)
class Writing:
    """Rules of a grammar that is being written.

    Attributes:
        rules: the rules.
        names: those of whole arguments.
    """

    rules: list[str] = field(default_factory=list[str])
    names: set[str] = field(default_factory=set[str])

    def add(self, name: str, body: str) -> None:
        """Add a rule."""
        self.rules.append(f"{name}: {body}")


def json_of(writing: Writing, name: str, tool: str, schema: Schema, strict: bool) -> None:
    """Add the rule of arguments that are a JSON object."""
    writing.names.add(name)
    writing.add(name, _json({**_object(schema), "type": "object"}, strict))


def python_of(writing: Writing, name: str, tool: str, schema: Schema, strict: bool) -> None:
    """Add the rules of arguments as keywords: `a=1, b="x"`. Values are written as JSON, which the
    parser reads too.

    Raises:
        OptionError: a name is none of Python, or the schema restricts the object as a whole.
    """
    for part in tool.split("."):
        _check_name(tool, part)
    terms: list[tuple[str, bool]] = []
    for at, (key, value, needed) in enumerate(_fields(tool, schema, strict)):
        _check_name(tool, key)
        writing.add(f"{name}_v{at}", _json(value, strict))
        terms.append((f"{quoted(key + '=')} {name}_v{at}", needed))
    writing.names.add(name)
    _separated(writing, name, terms)


def tags_of(writing: Writing, name: str, tool: str, schema: Schema, strict: bool) -> None:
    """Add the rules of arguments as tags: `<parameter=a>`, a value and `</parameter>`.

    Raises:
        OptionError: the schema restricts the object as a whole, or a text by more than its length
            or a list, or says elsewhere what a text may be.
    """
    terms: list[str] = []
    for at, (key, value, needed) in enumerate(_fields(tool, schema, strict)):
        if re.search(r"[<>\n]", key) or key != key.strip():
            raise _unwritable(tool, f"the name {key!r} of a parameter")
        own, types = f"{name}_v{at}", types_of(schema, key)
        if types and "string" not in types:
            writing.add(own, f'"\\n" {name}_j{at} {quoted(chr(10) + _VALUE_END)}')
            writing.add(f"{name}_j{at}", _json(value, strict))
        else:
            _text(writing, own, tool, _resolved(tool, value, schema, strict), strict)
        term = f"{quoted(f'<parameter={key}>')} {own} " + '"\\n"'
        terms.append(term if needed else f"({term})?")
    writing.names.add(name)
    writing.add(name, " ".join(terms) or '""')


def _resolved(tool: str, value: Schema, root: Schema, strict: bool) -> Schema:
    """Return the part of a schema to which a value refers, also over other references, or the
    value.

    Raises:
        OptionError: it is to be followed, and refers to nothing, or is restricted beside that.
    """
    seen = set[str]()
    while isinstance(place := value.get("$ref"), str):
        beside = [k for k in value if k not in ("$ref", *_SAID, *_DEFINITIONS)]
        if strict and beside:
            raise _unwritable(tool, f"the keyword {beside[0]!r} beside $ref")
        found = {} if (part := referred(place, root)) is True else part
        if not isinstance(found, Mapping) or place in seen:
            if strict:
                raise _unwritable(tool, f"the reference {place!r:.80}")
            return value
        seen.add(place)
        value = found
    return value


def _object(schema: Schema) -> Schema:
    """Return the schema of arguments; without one there are none."""
    return schema or {"type": "object", "properties": {}, "additionalProperties": False}


def _json(schema: Schema, strict: bool) -> str:
    """Return the term of a JSON value."""
    options: dict[str, JsonValue] = {"whitespace_flexible": True, "whitespace_pattern": WHITESPACE}
    if not strict:
        options |= {"coerce_one_of": True, "lenient": True}
    return f"%json {json.dumps({**schema, 'x-guidance': options}, ensure_ascii=False)}"


def _fields(tool: str, schema: Schema, strict: bool) -> list[tuple[str, Schema, bool]]:
    """Return the name of each parameter, its schema, and whether it must be given.

    Raises:
        OptionError: the schema says more about the object, and is to be followed.
    """
    if strict and (more := [k for k in schema if k not in (*_FIELDS, *_SAID)]):
        raise _unwritable(tool, f"the keyword {more[0]!r} of its parameters")
    properties, needed = schema.get("properties"), schema.get("required")
    properties = properties if isinstance(properties, Mapping) else {}
    needed = needed if isinstance(needed, list) else []
    shared = {name: schema[name] for name in _DEFINITIONS if name in schema}
    outside = _leaves(shared)
    found: list[tuple[str, Schema, bool]] = []
    for key, value in properties.items():
        own: dict[str, JsonValue] = dict(value) if isinstance(value, Mapping) else {}
        both = own | shared
        if outside or _leaves(own):
            if strict:
                raise _unwritable(tool, "a reference to other places than $defs")
            both = {}
        found.append((str(key), both, key in needed))
    if missing := [key for key in needed if key not in properties]:
        raise _unwritable(tool, f"the required parameter {missing[0]!r} without a schema")
    return found


def _leaves(schema: JsonValue) -> bool:
    """Whether a reference in a schema goes to other places than `$defs`."""
    return any(not _inside(part.get("$ref")) for part, _ in parts_of(schema))


def _inside(reference: JsonValue) -> bool:
    starts = tuple(f"#/{name}/" for name in _DEFINITIONS)
    return not isinstance(reference, str) or reference.startswith(starts)


def _separated(writing: Writing, name: str, terms: list[tuple[str, bool]]) -> None:
    """Add the rules of a list with commas, of which some members may be missing."""
    rest, first = '""', '""'
    for at in range(len(terms) - 1, -1, -1):
        term, needed = terms[at]
        writing.add(f"{name}_r{at}", rest)
        alone = f"{term} {name}_r{at}"
        if needed:
            first, rest = alone, f'", " {alone}'
        else:
            writing.add(f"{name}_f{at}", first)
            first, rest = f"{alone} | {name}_f{at}", f'(", " {term})? {name}_r{at}'
    writing.add(name, first)


def _text(writing: Writing, name: str, tool: str, schema: Schema, strict: bool) -> None:
    """Add the rule of a text between line breaks, up to the end tag."""
    given = schema.get("enum", [schema["const"]] if "const" in schema else None)
    texts = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
    other = [k for k in schema if k not in (*_OF_TEXT, *_SAID, *_DEFINITIONS)]
    if given is not None:  # the list alone is written
        beside = (*_LENGTHS, "const") if "enum" in schema else _LENGTHS
        other += [key for key in beside if key in schema]
    if strict and other:
        raise _unwritable(tool, f"the keyword {other[0]!r} of a text")
    if texts and not any(_VALUE_END in text for text in texts):
        ends = f"\n{_VALUE_END}"
        writing.add(name, " | ".join(quoted(f"\n{text}{ends}") for text in texts))
        return
    if strict and given is not None:
        raise _unwritable(tool, "the keyword 'enum' of a text")
    least, most = (_whole(schema.get(key)) for key in _LENGTHS)
    least = 0 if least is None else least
    if not isinstance(least, int) or not isinstance(most, int | None) or other:
        least, most = 0, None
    size = f"{{{least},{'' if most is None else most}}}" if least or most is not None else "*"
    writing.add(f"{name.upper()}_ANY", pattern(rf"(?s:\n.{size}\n?)"))
    body = f"{name.upper()}_ANY"
    if size != "*":  # a longer text may not go on behind an end tag
        writing.add(f"{name.upper()}_NONE", pattern(f"(?s:.*{_VALUE_END}.*)"))
        writing.add(f"{name.upper()}_BODY", f"{body} & ~{name.upper()}_NONE")
        body = f"{name.upper()}_BODY"
    writing.add(f"{name}[suffix={quoted(_VALUE_END)}]", body)


def _whole(value: JsonValue) -> JsonValue:
    """Return 5 for 5.0, which is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_name(tool: str, name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise _unwritable(tool, f"the name {name!r}")


def _unwritable(tool: str, what: str) -> OptionError:
    return OptionError(
        f"the tool {tool!r} cannot be called in the form of this model: {what}",
        hint="Change it, or leave strict out",
    )
