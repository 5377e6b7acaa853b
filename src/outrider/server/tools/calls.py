"""What parsers of calls return."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from outrider.server.ids import new_id


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call that the model wrote: the arguments are JSON."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: new_id("call"))

    def to_dict(self) -> dict[str, Any]:
        """Return the call as answers hold it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning, which is no part of the answer."""

    text: str


Part = str | FunctionCall | Thought
"""A part of what a model writes: text of the answer, a call, or reasoning."""


class CallParser(Protocol):
    """Finds calls in a text that arrives in pieces. Text in which no call can begin is returned at
    once; markup of calls never is."""

    def feed(self, text: str) -> list[Part]:
        """Add text; return the parts that are complete."""
        ...

    def close(self) -> list[Part]:
        """End the text; return what is left. A call that was cut is returned as text."""
        ...


class NoCalls:
    """Finds no calls."""

    def feed(self, text: str) -> list[Part]:
        """Return the text."""
        return [text] if text else []

    def close(self) -> list[Part]:
        """Return nothing."""
        return []
