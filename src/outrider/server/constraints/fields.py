"""The constraint that the fields of a request describe."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from outrider.core.errors import OptionError
from outrider.sampling.constraint import Constraint
from outrider.server.errors import ApiError, invalid, unsupported
from outrider.server.schema.chat import ChatBody
from outrider.server.schema.completions import CompletionBody
from outrider.server.schema.constraints import NamedSchema, OutputFormat, ResponseFormat
from outrider.server.schema.messages import CountBody
from outrider.server.schema.responses import ResponsesBody
from outrider.server.schema.sampling import SamplingBody

_GBNF = re.compile(r"^[ \t\r]*root[ \t\r]*::=", re.MULTILINE)
"""The rule with which a grammar of llama.cpp begins; a grammar without it is one of Lark. It reads
each line by itself, so that the time does not grow with the square of the length."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A constraint, and the field that gave it."""

    constraint: Constraint
    field: str


_Given = tuple[str, Callable[[str | None], Constraint]]
"""A field, and what makes its constraint, given the white space of JSON."""


def asked_by(body: SamplingBody) -> Asked | None:
    """Return the constraint of a request; None if its text is free.

    Raises:
        ApiError: there are two, one is not valid, or another field contradicts it.
    """
    given = list(_given(body))
    spaces = list(_whitespace(body))
    _one_of([field for field, _ in spaces])
    if not given:
        if spaces:
            raise invalid(f"{spaces[0][0]} is given without a JSON schema", spaces[0][0])
        return None
    _one_of([field for field, _ in given])
    [(field, make)] = given
    if body.ignore_eos:
        raise invalid(f"ignore_eos is set, but {field} says where the text ends", "ignore_eos")
    _check_calls(body, field)
    try:
        return Asked(make(spaces[0][1] if spaces else None), field)
    except OptionError as error:
        place = spaces[0][0] if spaces and "whitespace" in error.problem else field
        raise refused(error, place) from None


def refused(error: OptionError, field: str) -> ApiError:
    """Return the error for a constraint that is not valid, or that cannot be enforced."""
    hint = "" if "unsupported=" in error.hint else error.hint  # an option of the library
    return ApiError(400, "invalid_schema", str(OptionError(error.problem, hint=hint)), field)


def ignored_by(body: SamplingBody) -> list[str]:
    """Return the fields of constraints that have no effect."""
    named = body.guided_decoding_backend == "xgrammar"
    return ["guided_decoding_backend"] if named else []


def _one_of(fields: list[str]) -> None:
    if len(fields) > 1:
        raise invalid(f"{fields[0]} and {fields[1]} are given together. Give one", fields[1])


def _given(body: SamplingBody) -> Iterator[_Given]:
    """Yield the fields that hold a constraint."""
    yield from _formats(body)
    own = body.structured_outputs
    if own is not None:
        if own.structural_tag is not None:
            reason = "give json, regex, choice, grammar or json_object"
            raise unsupported("structured_outputs.structural_tag", reason)
        yield from _named("structured_outputs.", vars(own) | {"json": own.json_})
    guided = {name: getattr(body, f"guided_{name}") for name in _MAKERS if name != "json_object"}
    yield from _named("guided_", guided)
    if body.grammar is not None:
        source = body.grammar
        yield "grammar", lambda _: Constraint(kind="gbnf", source=source)
    if body.json_schema is not None:
        yield "json_schema", _schema(body.json_schema)


def _named(prefix: str, values: dict[str, Any]) -> Iterator[_Given]:
    for name, maker in _MAKERS.items():
        if values.get(name) not in (None, False):
            yield prefix + name, maker(values[name])


def _formats(body: SamplingBody) -> Iterator[_Given]:
    """Yield the form of the answer, in the interface of the endpoint."""
    if isinstance(body, ChatBody | CompletionBody):
        yield from _format(body.response_format, "response_format")
    elif isinstance(body, ResponsesBody) and body.text is not None:
        form = body.text.format
        if form is not None and form.type == "json_schema":
            yield "text.format.schema", _schema_of(form, "text.format")
        elif form is not None and form.type == "json_object":
            yield "text.format", _any_object
    elif isinstance(body, CountBody):
        own = body.output_config.format if body.output_config is not None else None
        for place, form in (("output_config.format", own), ("output_format", body.output_format)):
            if isinstance(form, OutputFormat):
                yield f"{place}.schema", _schema(form.schema_)


def _format(form: ResponseFormat | None, place: str) -> Iterator[_Given]:
    if form is None or form.type == "text":
        return
    if form.type == "json_object":
        yield place, _any_object
        return
    if form.json_schema is None:
        raise invalid(f"the field '{place}.json_schema' is missing", place, "missing_field")
    place = f"{place}.json_schema"
    yield f"{place}.schema", _schema_of(form.json_schema, place)


def _schema_of(form: NamedSchema, place: str) -> Callable[[str | None], Constraint]:
    if form.schema_ is None:
        field = f"{place}.schema"
        raise invalid(f"the field {field!r} is missing", field, "missing_field")
    return _schema(form.schema_)


def _schema(schema: dict[str, Any] | str) -> Callable[[str | None], Constraint]:
    return lambda space: Constraint.json_schema(schema, whitespace=space)


def _any_object(space: str | None) -> Constraint:
    return Constraint.json_schema({"type": "object"}, whitespace=space)


def _free(make: Callable[[], Constraint]) -> Callable[[str | None], Constraint]:
    """Return what makes a constraint that is no JSON."""

    def made(space: str | None) -> Constraint:
        if space is not None:
            raise OptionError("whitespace is an option of JSON schemas only", hint="Leave it out")
        return make()

    return made


def _grammar(source: str) -> Constraint:
    return Constraint(kind="gbnf" if _GBNF.search(source) else "lark", source=source)


_MAKERS: dict[str, Callable[[Any], Callable[[str | None], Constraint]]] = {
    "json": _schema,
    "json_object": lambda _: _any_object,
    "regex": lambda pattern: _free(lambda: Constraint.regex(pattern)),
    "choice": lambda texts: _free(lambda: Constraint.choice(texts)),
    "grammar": lambda source: _free(lambda: _grammar(source)),
}
"""What makes a constraint of a value, by the names of vLLM."""


def _whitespace(body: SamplingBody) -> Iterator[tuple[str, str]]:
    """Yield the fields that set the white space of JSON, with its pattern."""
    own = body.structured_outputs
    if own is not None and own.whitespace_pattern is not None:
        yield "structured_outputs.whitespace_pattern", own.whitespace_pattern
    if own is not None and own.disable_any_whitespace:
        yield "structured_outputs.disable_any_whitespace", "compact"
    if body.guided_whitespace_pattern is not None:
        yield "guided_whitespace_pattern", body.guided_whitespace_pattern


def _check_calls(body: SamplingBody, field: str) -> None:
    """Raise `ApiError` if functions may be called: a text of the grammar holds no calls."""
    if not isinstance(body, ChatBody | ResponsesBody | CountBody) or not body.tools:
        return
    choice: Any = body.tool_choice
    choice = getattr(choice, "type", choice)
    if choice != "none":
        reason = "tools are given too, and a text of this form holds no calls"
        raise unsupported(field, f"{reason}; give the tool_choice none, or no tools")
