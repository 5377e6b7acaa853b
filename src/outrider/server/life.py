"""The state of a server: it serves, drains, or its engine is dead or stalled."""

from dataclasses import dataclass

from outrider.server.client import EngineClient
from outrider.server.errors import ApiError, retry_later

_STALLED = 60.0
"""Seconds without a step, while work waits, after which the engine counts as stalled."""

_SLOW_STEPS = 20
"""The same as a multiple of the slowest step so far."""


@dataclass(slots=True)
class Life:
    """Whether new work is accepted, and why not.

    Attributes:
        client: the engine.
        draining: the server is shutting down.
    """

    client: EngineClient
    draining: bool = False

    @property
    def dead(self) -> str:
        """Why the engine ended; empty while it runs."""
        return self.client.state.dead

    @property
    def stalled(self) -> bool:
        """Whether the engine makes no steps although there is work."""
        limit = max(_STALLED, _SLOW_STEPS * self.client.state.slowest_step)
        return self.client.heartbeat_age > limit

    def sick(self) -> ApiError | None:
        """Return why the server should be restarted, or None."""
        if dead := self.dead:
            return ApiError(503, "engine_error", f"the engine ended: {dead}")
        if self.stalled:
            age = f"{self.client.heartbeat_age:.0f} s"
            return ApiError(503, "engine_stalled", f"the engine has made no step for {age}")
        return None

    def refusal(self) -> ApiError | None:
        """Return why new work is refused, or None."""
        if self.draining:
            return retry_later(503, "draining", "the server is shutting down", 5.0)
        return self.sick()
