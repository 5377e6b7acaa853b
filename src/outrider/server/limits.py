"""Limits of the queue: requests are refused before they reach the engine."""

from collections.abc import Sequence

from outrider.engine.serving.messages import Submission
from outrider.server.client import EngineClient
from outrider.server.errors import retry_later
from outrider.server.settings import ServerSettings

_UNKNOWN_RATE = 1.0
"""Samples per second that end, before any has."""


def check_queue(
    client: EngineClient, submissions: Sequence[Submission], settings: ServerSettings
) -> None:
    """Raise `ApiError` 429 if too many samples, or tokens of prompts, would wait.

    The client's own counts are used beside the snapshot of the engine, because many requests can
    arrive between two steps.
    """
    state, count = client.state, sum(one.n for one in submissions)
    most = state.max_num_seqs + settings.max_queue
    waiting = max(state.waiting, client.open - state.max_num_seqs, 0)
    seconds = (waiting + 1) / (state.drain_rate or _UNKNOWN_RATE)
    full = client.open + count > most or state.waiting + count > max(settings.max_queue, count)
    if full and client.open:
        raise retry_later(
            429, "queue_full", f"{waiting} requests are waiting; try again later", seconds
        )
    tokens, unread = sum(len(one.prompt) for one in submissions), client.unread_tokens
    if unread and unread + tokens > settings.max_queued_tokens:
        raise retry_later(
            429,
            "queue_full",
            f"prompts of {unread} tokens are waiting; try again later",
            seconds,
        )
