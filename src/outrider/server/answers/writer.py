"""What turns the events of the engine into an answer of one endpoint."""

from collections.abc import Iterable
from typing import Any, Protocol

from outrider.engine.serving.messages import Event
from outrider.server.errors import ApiError

Json = dict[str, Any]


class Writer(Protocol):
    """Builds one answer: as an object, or as the frames of a stream."""

    def take(self, event: Event) -> None:
        """Add what the engine wrote; for an answer in one piece."""
        ...

    def answer(self) -> Json:
        """Return the whole answer, at the end."""
        ...

    def frames(self, event: Event) -> Iterable[bytes]:
        """Add what the engine wrote; yield the frames of the stream that show it."""
        ...

    def last(self) -> Iterable[bytes]:
        """Yield the frames that end the stream."""
        ...

    def broken(self, error: ApiError) -> Iterable[bytes]:
        """Yield the frames that end the stream after an error."""
        ...
