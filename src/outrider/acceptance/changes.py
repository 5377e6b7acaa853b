"""The change budget: how many tokens may differ from the verifier's choice."""

import math

from outrider.core.checks import Range
from outrider.core.counters import Counters

MAX_CHANGED = Range(
    0.0, 1.0, optional=True, hint="Give a share of at least 0 and at most 1, such as 0.02"
)
"""The allowed values of `max_changed`: a share, or None for no limit."""


def has_room(max_changed: float | None, ledger: Counters, accepted: int, changes: int) -> bool:
    """Whether one more change stays within the share `max_changed` of the tokens up to this one.

    `accepted` tokens of this round precede it, of which `changes` are not the verifier's choice.
    The number of allowed changes is rounded down.
    """
    if max_changed is None:
        return True
    emitted = ledger.tokens + accepted + 1
    return ledger.changed + changes + 1 <= math.floor(max_changed * emitted)
