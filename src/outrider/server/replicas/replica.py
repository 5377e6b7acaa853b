"""`Replica`: what the front needs of an engine in another process."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from outrider.engine.serving.messages import Event, Submission
from outrider.server.replicas.states import Report


class ReplicaLostError(Exception):
    """A replica has ended, or cannot be reached."""


class Replica(Protocol):
    """One engine, reached by messages. All methods run in the event loop of the front.

    Attributes:
        name: the same after a restart.
        cache_size: tokens that the caches of its engine hold.
    """

    name: str
    cache_size: int

    def stream(self, submission: Submission) -> AsyncGenerator[Sequence[Event], None]:
        """Run a request; yield an empty sequence once it is accepted, then its events in order, and
        end after the last `Ended`. Closing the iterator cancels the request. A replica that drains,
        or whose engine is dead, ends it with a failure.

        Raises:
            ReplicaLostError: the replica was lost.
        """
        ...

    async def cancel(self, id: str) -> None:
        """End a request; its stream still yields the ends of its samples."""
        ...

    async def report(self) -> Report:
        """Return the state of the replica.

        Raises:
            ReplicaLostError: the replica was lost.
        """
        ...
