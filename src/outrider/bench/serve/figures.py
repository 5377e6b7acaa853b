"""Figures of a load: times to the first token, between tokens, and in all; throughput, goodput."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from outrider.bench.serve.load import Answer
from outrider.core.values import JsonValue

_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What an answer must reach to count for goodput: a service level objective.

    Attributes:
        first: largest seconds until the first text; None sets no limit.
        per_token: largest seconds for each token after it; None sets no limit.
        total: largest seconds until the end; None sets no limit.
    """

    first: float | None = None
    per_token: float | None = None
    total: float | None = None

    def met(self, answer: Answer) -> bool:
        """Whether an answer meets all limits."""
        pairs = (
            (answer.first, self.first),
            (answer.per_token, self.per_token),
            (answer.total, self.total),
        )
        if answer.error or answer.first is None:
            return False
        return all(limit is None or value is None or value <= limit for value, limit in pairs)


def figures(answers: Sequence[Answer], objective: Objective | None = None) -> dict[str, JsonValue]:
    """Return the figures of one load.

    Returns:
        `requests`, `failed`, `seconds`, `tokens`, `prompt_tokens`, `tokens_per_second`,
        `requests_per_second`, and percentiles (`p50`, `p95`, `p99`) of `ttft` (until the first
        text), `tpot` (for each token after it), `itl` (between two events with text) and `e2e`, in
        milliseconds; with an objective `goodput`, the requests per second that meet it, and `met`,
        their share.
    """
    good = [answer for answer in answers if not answer.error]
    seconds = max((a.ended for a in answers), default=0.0) - min(
        (a.sent for a in answers), default=0.0
    )
    tokens = sum(answer.tokens for answer in good)
    gaps = [b - a for one in good for a, b in zip(one.arrivals, one.arrivals[1:], strict=False)]
    found: dict[str, JsonValue] = {
        "requests": len(answers),
        "failed": len(answers) - len(good),
        "seconds": seconds,
        "tokens": tokens,
        "prompt_tokens": sum(answer.prompt_tokens for answer in good),
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "requests_per_second": len(good) / seconds if seconds else 0.0,
        "ttft": _percentiles([a.first for a in good if a.first is not None]),
        "tpot": _percentiles([a.per_token for a in good if a.per_token is not None]),
        "itl": _percentiles(gaps),
        "e2e": _percentiles([a.total for a in good]),
    }
    if objective is not None:
        met = sum(objective.met(answer) for answer in answers)
        found["goodput"] = met / seconds if seconds else 0.0
        found["met"] = met / len(answers) if answers else 0.0
    return found


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles in milliseconds; empty without values."""
    if not seconds:
        return {}
    if len(seconds) == 1:
        return {f"p{p}": 1000.0 * seconds[0] for p in _PERCENTILES}
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {f"p{p}": 1000.0 * cuts[p - 1] for p in _PERCENTILES}
