"""One answer of a conversation: content, reasoning and calls, as they grow."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from outrider.engine.serving.messages import Event, Piece
from outrider.server.answers.sample import Sample
from outrider.server.answers.writer import Json
from outrider.server.tools.calls import (
    CallBegin,
    CallEnd,
    CallParser,
    CallText,
    FunctionCall,
    Part,
    Thought,
)


@dataclass(slots=True, eq=False)
class WrittenCall:
    """A call as far as it is written.

    Attributes:
        name: of the function.
        id: of the call.
        arguments: the JSON of an object, unless the call is broken.
        broken: the call has ended, and the arguments are no such JSON.
        custom: the arguments are the input of a custom tool.
    """

    name: str
    id: str
    arguments: str = ""
    broken: bool = False
    custom: bool = False

    def to_dict(self) -> Json:
        """Return the call as answers hold it."""
        if self.custom:
            own = {"name": self.name, "input": self.arguments}
            return {"id": self.id, "type": "custom", "custom": own}
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


NewPart = str | Thought | CallBegin | CallText | CallEnd
"""A part of an answer; whole calls are given as their begin, text and end."""


@dataclass(slots=True, eq=False)
class ChatSample:
    """One answer: its text, split into content, reasoning and calls.

    Attributes:
        sample: what the engine wrote.
        parser: splits it.
        most_calls: calls beyond this number are dropped; None: there is no limit.
        named: the request named the tool, so that a call is no reason for the end.
        content: the text of the answer.
        reasoning: what comes before it.
        calls: the calls.
    """

    sample: Sample
    parser: CallParser
    most_calls: int | None = None
    named: bool = False
    content: str = ""
    reasoning: str = ""
    calls: list[WrittenCall] = field(default_factory=list[WrittenCall])
    begun: bool = False
    _dropping: bool = False

    def add(self, event: Event, with_stop: bool = False) -> list[NewPart]:
        """Add what the engine wrote; return the new parts."""
        parts = self.parser.feed(self.sample.add(event, with_stop))
        if not isinstance(event, Piece):
            parts += self.parser.close()
        return [part for part in _in_steps(parts) if self._takes(part)]

    def _takes(self, part: NewPart) -> bool:
        """Add a part; return false for one of a call beyond the limit."""
        if isinstance(part, str):
            self.content += part
        elif isinstance(part, Thought):
            self.reasoning += part.text
        elif isinstance(part, CallBegin):
            self._dropping = self.most_calls is not None and len(self.calls) >= self.most_calls
            if not self._dropping:
                self.calls.append(WrittenCall(part.name, part.id, custom=part.custom))
            return not self._dropping
        elif self._dropping:
            return False
        elif isinstance(part, CallText):
            self.calls[-1].arguments += part.text
        else:
            self.calls[-1].broken = part.broken
        return True

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the reasoning, tags included."""
        return sum(map(self.parser.reasons_at, self.sample.ends))

    @property
    def finish_reason(self) -> str:
        """`stop`, `length` or `tool_calls`; an answer that was cut is `length` in any case, and one
        with a broken call too."""
        if any(call.broken for call in self.calls):
            return "length"
        reason = self.sample.finish_reason
        called = bool(self.calls) and not self.named
        return "tool_calls" if called and reason == "stop" else reason


def _in_steps(parts: Iterable[Part]) -> Iterable[NewPart]:
    """Yield parts, and whole calls as begin, text and end."""
    for part in parts:
        if isinstance(part, FunctionCall):
            yield CallBegin(part.name, part.id)
            yield CallText(part.arguments)
            yield CallEnd()
        else:
            yield part
