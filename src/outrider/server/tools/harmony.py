"""The answers of gpt-oss: messages in channels.

An answer is a row of messages, each with a header: `analysis` is reasoning, `final` is the text of
the answer, and `commentary to=functions.NAME` is a call, whose arguments are JSON. A message in the
channel `commentary` without a recipient is text too: the model announces what it will do.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from outrider.constraints.tools import CallForm
from outrider.server.tools.calls import Part, Schemas, Thought
from outrider.server.tools.incremental import NO_SCHEMAS, Incremental, Steps, first
from outrider.server.tools.reading import is_name, overlap

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", START)
_CONSTRAIN = "<|constrain|>"

_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_FUNCTIONS = "functions."
_PEOPLE = ("", "assistant", "user")
"""Recipients that are no tools."""


@dataclass(slots=True)
class _Span:
    """Characters of the answer; `end` is None as long as they go on."""

    begin: int
    end: int | None = None

    def holds(self, place: int) -> bool:
        """Whether the character before `place` is one of them."""
        return self.begin < place and (self.end is None or place <= self.end)


class Harmony(Incremental):
    """Splits an answer in channels into reasoning, calls and text.

    Messages to other tools than functions are reasoning. Without functions, what would be a call is
    text. A text that does not begin with a header is the text of the answer.
    """

    marks = (START, CHANNEL, MESSAGE, _CONSTRAIN, *_ENDS[:3])
    control = marks

    @classmethod
    def form(cls, template: str) -> CallForm:
        """Return how calls are written, where `template` is the chat template."""
        begin = f"{CHANNEL}commentary to={_FUNCTIONS}"
        return CallForm(
            begin=begin,
            middle=f" {_CONSTRAIN}json{MESSAGE}",
            end="<|call|>",
            between=f"{START}assistant",
            opens=begin,
            also=(f" json{MESSAGE}", MESSAGE),
            thought=(f"{CHANNEL}analysis{MESSAGE}", f"<|end|>{START}assistant"),
        )

    def __init__(self, schemas: Schemas = NO_SCHEMAS, calls: bool = True) -> None:
        """Begin an answer; `calls`: calls of functions are looked for."""
        self._calls = calls
        self._fed = 0
        self._spans: list[_Span] = []
        self._kinds = set[Callable[[str], Part]]()
        super().__init__(schemas)

    def feed(self, text: str) -> list[Part]:
        """Add text; return the parts that are complete."""
        self._fed += len(text)
        return super().feed(text)

    def reasons_at(self, place: int) -> bool:
        """Whether the character before `place` belongs to reasoning, headers included."""
        return any(span.holds(place) for span in self._spans)

    @property
    def _place(self) -> int:
        """Characters of the answer before the text that is not used."""
        return self._fed - len(self._text)

    def _read(self) -> Steps[None]:
        while True:
            begin, header = self._place, ""
            starts = (CHANNEL, START, MESSAGE, " to=", "to=")
            if (yield from self._peek(*starts)) is not None:
                if (yield from self._until(MESSAGE)) is None:
                    if not any(mark in self._text for mark in (CHANNEL, START)):
                        self._say(self._text)
                    return  # the header was cut
                header = self._used()
            yield from self._message(header, begin)
            if self._ended and not self._text:
                return
            yield from self._space()
            self._used()

    def _message(self, header: str, begin: int) -> Steps[None]:
        """Read a message after its header, which begins at `begin`."""
        found = _CHANNEL.search(header)
        recipient = match.group(1) if (match := _RECIPIENT.search(header)) else ""
        name = recipient.removeprefix(_FUNCTIONS)
        if name != recipient and is_name(name):
            if self._calls and (yield from self._called_with_object()):
                self._begin(name)
                yield from self._arguments(*_ENDS)
                if (yield from self._until(*_ENDS)) == START:
                    self._at -= len(START)
                self._used()
                return
        elif recipient not in _PEOPLE or (found is not None and found.group(1) == "analysis"):
            span = _Span(begin)
            self._spans.append(span)
            yield from self._body(Thought)
            span.end = self._place
            return
        yield from self._body(str)

    def _called_with_object(self) -> Steps[bool]:
        yield from self._space()
        return (yield from self._peek("{")) is not None

    def _body(self, kind: Callable[[str], Part]) -> Steps[None]:
        """Return the text of a message as it arrives; messages of one kind are separated."""
        fresh = True
        while True:
            at, mark = first(self._text, _ENDS)
            end = at if mark is not None or self._ended else at - overlap(self._text, _ENDS)
            if end:
                if fresh and kind in self._kinds:
                    self._found.append(kind("\n\n"))
                fresh = False
                self._kinds.add(kind)
                self._found.append(kind(self._text[:end]))
            self._text = self._text[end + len(mark or "") if mark != START else end :]
            if mark is not None or self._ended:
                return
            yield
