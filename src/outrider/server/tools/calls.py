"""What parsers of calls return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from outrider.core.values import JsonValue
from outrider.server.ids import new_id

Schemas = Mapping[str, Mapping[str, JsonValue]]
"""The JSON Schema of the arguments of each function, by its name."""


def new_call_id() -> str:
    """Return the identifier of a call."""
    return new_id("call")


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A whole call that the model wrote: the arguments are JSON."""

    name: str
    arguments: str
    id: str = field(default_factory=new_call_id)


@dataclass(frozen=True, slots=True)
class CallBegin:
    """The begin of a call whose arguments follow in parts, up to `CallEnd`.

    Attributes:
        name: of the tool.
        id: of the call.
        custom: the arguments are the input of a custom tool, any text.
    """

    name: str
    id: str = field(default_factory=new_call_id)
    custom: bool = False


@dataclass(frozen=True, slots=True)
class CallText:
    """The next part of the arguments of the call that began last."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The end of the call that began last.

    Attributes:
        broken: the arguments are not the JSON of an object: the text was cut, or is wrong.
    """

    broken: bool = False


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning, which is no part of the answer."""

    text: str


Part = str | FunctionCall | CallBegin | CallText | CallEnd | Thought
"""A part of what a model writes: text of the answer, a call or a part of it, or reasoning."""


class CallParser(Protocol):
    """Finds calls in a text that arrives in pieces.

    The parts, joined, do not depend on how the text is cut into pieces. Text in which no call can
    begin is returned at once. What only looks like a call is returned as text, unless its begin was
    returned already.
    """

    def feed(self, text: str) -> list[Part]:
        """Add text; return the parts that are complete."""
        ...

    def close(self) -> list[Part]:
        """End the text; return what is left. A call that was cut ends as broken if its begin was
        returned, and is returned as text otherwise."""
        ...

    def reasons_at(self, place: int) -> bool:
        """Whether the character before `place`, counted in all text so far, is reasoning."""
        ...


class WholeInput:
    """Takes the whole text for the input of a custom tool."""

    def __init__(self, name: str) -> None:
        """Begin the input of the tool `name`."""
        self._begin: list[Part] = [CallBegin(name, custom=True)]

    def feed(self, text: str) -> list[Part]:
        """Return the text as a part of the input."""
        return [*self._begun(), CallText(text)] if text else []

    def close(self) -> list[Part]:
        """Return the end of the call."""
        return [*self._begun(), CallEnd()]

    def reasons_at(self, place: int) -> bool:
        """Return false."""
        return False

    def _begun(self) -> list[Part]:
        found, self._begin = self._begin, []
        return found


class NoCalls:
    """Finds no calls."""

    marks: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[tuple[str, ...]] = ()

    def __init__(self, schemas: Schemas | None = None) -> None:
        """Begin a text."""

    def feed(self, text: str) -> list[Part]:
        """Return the text."""
        return [text] if text else []

    def close(self) -> list[Part]:
        """Return nothing."""
        return []

    def reasons_at(self, place: int) -> bool:
        """Return false."""
        return False
