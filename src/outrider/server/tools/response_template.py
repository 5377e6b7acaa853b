"""Answers read by the response template of a tokenizer.

A checkpoint may describe the parts of its answers (`response_template`), and `transformers` 5 reads
them (`parse_response`). Its parser is used in steps: text is returned as it arrives, and a call at
its end.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol, cast
from weakref import WeakSet

from outrider.core.values import JsonValue
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.server.tools.calls import FunctionCall, Part, Thought
from outrider.server.tools.reading import as_call

log = logging.getLogger("outrider.server")

Events = Sequence[dict[str, JsonValue]]

_CONTENT, _CALLS = "content", "tool_calls"

_warned: WeakSet[Tokenizer] = WeakSet()
"""Tokenizers whose template cannot be used; this is logged once."""


class ResponseParser(Protocol):
    """The parser of `transformers`."""

    initial_events: Events

    def feed(self, text: str) -> Events:
        """Add text; return what opened, grew and closed."""
        ...

    def finalize(self) -> tuple[JsonValue, Events]:
        """End the text; return the message and the last events."""
        ...


MakeParser = Callable[[str], ResponseParser]
"""Makes a parser for an answer after a prompt."""


def parser_maker(tokenizer: Tokenizer, tools: Sequence[JsonValue] = ()) -> MakeParser | None:
    """Return what makes parsers, or None if the tokenizer has no usable response template."""
    source = tokenizer.tokenizer
    template = getattr(source, "response_template", None)
    if template is None:
        return None
    if not hasattr(source, "get_response_parser"):
        _warn(tokenizer, "it needs transformers 5 or later")
        return None

    def make(prefix: str) -> ResponseParser:
        found = source.get_response_parser(_optional(template), prefix=prefix, tools=list(tools))
        return cast(ResponseParser, found)

    try:
        make("")
    except Exception as error:  # a checkpoint may hold anything
        _warn(tokenizer, " ".join(str(error).split())[:200])
        return None
    return make


def _warn(tokenizer: Tokenizer, reason: str) -> None:
    if tokenizer not in _warned:
        _warned.add(tokenizer)
        log.warning("the response template of %s is not used: %s", tokenizer.name, reason)


def _optional(template: JsonValue) -> JsonValue:
    """Return a template without required fields: an answer without them is shown all the same."""
    if not isinstance(template, dict) or not isinstance(template.get("fields"), dict):
        return template
    fields = {
        name: {**one, "optional": True} if isinstance(one, dict) else one
        for name, one in template["fields"].items()
    }
    return {**template, "fields": fields}


class ByTemplate:
    """Splits an answer by a response template.

    The field `content` is the text of the answer, `tool_calls` holds calls, and any other field is
    reasoning. White space around a field is dropped. A part that the template cannot read is text.
    """

    def __init__(self, make: MakeParser, prompt: str, calls: bool = True) -> None:
        """Begin an answer.

        Args:
            make: makes parsers of `transformers`.
            prompt: the prompt; it may end inside the reasoning.
            calls: calls are looked for; otherwise their text is text of the answer.
        """
        self._make, self._calls = make, calls
        self._parser = make(prompt)
        self._field, self._body, self._space, self._begun = "", "", "", False
        self._reasoned = bytearray()
        self._parts(self._parser.initial_events)
        self._space = ""  # of the prompt

    def feed(self, text: str) -> list[Part]:
        """Add text; return the parts that are complete.

        The parser gets single characters, so that it is known after an error what it has read.
        """
        return _joined(
            part for character in text for part in self._step(partial(self._parser.feed, character))
        )

    def close(self) -> list[Part]:
        """Return what is left."""
        return _joined(self._step(lambda: self._parser.finalize()[1]))

    def reasons_at(self, place: int) -> bool:
        """Whether the character before `place` is reasoning."""
        return 0 < place <= len(self._reasoned) and bool(self._reasoned[place - 1])

    def _step(self, run: Callable[[], Events]) -> list[Part]:
        reasons = self._reasons
        try:
            found = self._parts(run())
        except Exception:  # parsers of fields raise various ones
            found = self._raw()
            self._parser, self._field, self._body = self._make(""), "", ""
        self._reasoned.append(reasons or self._reasons)
        return found

    @property
    def _reasons(self) -> bool:
        return self._field not in ("", _CONTENT, _CALLS)

    def _parts(self, events: Events) -> list[Part]:
        found: list[Part] = []
        for event in events:
            if event["type"] == "region_chunk":
                found += self._grown(str(event["text"]))
                continue
            if event["type"] == "region_close" and self._field == _CALLS:
                found += self._called(event["value"])
            opens = event["type"] == "region_open"
            self._field = str(event["field"]) if opens else ""
            self._body, self._space, self._begun = "", "", False
        return found

    def _grown(self, text: str) -> list[Part]:
        """Add text to the field that is open; return what of it is known to be no white space at
        the end."""
        self._body += text
        if self._field == _CALLS:
            return []
        text = self._space + text
        text = text if self._begun else text.lstrip()
        ready = text.rstrip()
        self._space = text[len(ready) :]
        self._begun = self._begun or bool(ready)
        if not ready:
            return []
        return [Thought(ready) if self._reasons else ready]

    def _called(self, value: JsonValue) -> list[Part]:
        """Return the calls of a field, or its text."""
        values = value if isinstance(value, list) else [value]
        calls = [_call(one) for one in values]
        known = [call for call in calls if call is not None]
        return [*known] if self._calls and known and len(known) == len(calls) else self._raw()

    def _raw(self) -> list[Part]:
        """Return the text of a field that holds no calls, unless it was returned already."""
        return [self._body] if self._field == _CALLS and self._body.strip() else []


def _call(value: JsonValue) -> FunctionCall | None:
    return as_call(value.get("function", value)) if isinstance(value, dict) else None


def _joined(parts: Iterable[Part]) -> list[Part]:
    """Return parts with neighbouring texts joined, and neighbouring reasoning."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, str) and isinstance(last, str):
            found[-1] = last + part
        elif isinstance(part, Thought) and isinstance(last, Thought):
            found[-1] = Thought(last.text + part.text)
        else:
            found.append(part)
    return found
