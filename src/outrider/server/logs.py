"""One line of JSON for each request, at its end. Prompts and answers are not logged."""

import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from outrider.engine.serving.messages import Ended

log = logging.getLogger("outrider.server.requests")

_MOST_NAMES = 1000
"""Names of unknown fields that are remembered; clients choose them, so there must be a limit."""


class Ignored:
    """Logs each field without effect once, and not for each request."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def note(self, names: Sequence[str]) -> None:
        """Log the names that are new."""
        for name in names:
            if name not in self._known and len(self._known) < _MOST_NAMES:
                self._known.add(name)
                log.info(json.dumps({"time": round(time.time(), 3), "ignored_field": name[:80]}))


def log_request(facts: dict[str, Any], ends: list[Ended], outcome: str, phase: str) -> None:
    """Write the line of one request.

    Args:
        facts: its identifier, endpoint, key and the like.
        ends: the ends of its samples.
        outcome: `done`, `disconnected` or the code of an error.
        phase: what it was doing when it ended.
    """
    if not log.isEnabledFor(logging.INFO):
        return
    line: dict[str, Any] = {"time": round(time.time(), 3), **facts, "outcome": outcome}
    if outcome != "done":
        line["phase"] = phase
    results = [ended.result for ended in ends if ended.result is not None]
    if results:
        drafted = sum(r.speculation.target.drafted for r in results)
        accepted = sum(r.speculation.target.accepted for r in results)
        line |= {
            "prompt_tokens": results[0].prompt_tokens,
            "completion_tokens": sum(r.completion_tokens for r in results),
            "cached_tokens": ends[0].timing.cached_tokens,
            "drafted": drafted,
            "accepted": accepted,
            "finish": results[0].finish_reason,
        }
    if ends:
        timing = ends[0].timing
        line |= {
            "queued_s": round(timing.queued, 4),
            "first_token_s": None if timing.first_token is None else round(timing.first_token, 4),
            "total_s": round(max(ended.timing.total for ended in ends), 4),
            "preemptions": sum(ended.timing.preemptions for ended in ends),
        }
    log.info(json.dumps(line, ensure_ascii=False))
