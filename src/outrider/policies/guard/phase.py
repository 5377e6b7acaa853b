"""What a watch is doing, and which contexts cost the same."""

from enum import StrEnum


class Phase(StrEnum):
    """What a watch is doing; `watch.py` shows how the phases follow each other."""

    OPEN = "open"
    RUN = "run"
    CLOSE = "close"
    FREE = "free"
    OFF = "off"
    PROBE = "probe"
    CHECK = "check"


OTHER = 1.3
"""Ratio of two contexts, from which on their rounds are not compared."""
BASE = 1024
"""Tokens that are added to both: the weights cost as much in any context, and a text that grows
during an epoch must not end it."""


def is_other(context: float, before: float) -> bool:
    """Whether rounds with so many tokens of context per request may cost something else than those
    with as many as `before`."""
    low, high = sorted((context + BASE, before + BASE))
    return high > OTHER * low
