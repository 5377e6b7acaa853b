"""The budget of changes: how many tokens may differ from the verifier's choice."""

import math

from outrider.core.counters import Counters
from outrider.core.errors import OptionError


def check_share(max_changed: float | None) -> None:
    """Raise `OptionError` unless `max_changed` is a share, or None for no limit."""
    if max_changed is not None and not 0.0 <= max_changed <= 1.0:
        raise OptionError(
            f"max_changed is {max_changed}",
            hint="Give a share of at least 0 and at most 1, such as 0.02",
        )


def has_room(max_changed: float | None, ledger: Counters, accepted: int, changes: int) -> bool:
    """Whether one more change keeps within `max_changed` of the tokens up to this one.

    `accepted` tokens of this round come before it, `changes` of which are not the verifier's
    choice. The share is rounded down.
    """
    if max_changed is None:
        return True
    emitted = ledger.tokens + accepted + 1
    return ledger.changed + changes + 1 <= math.floor(max_changed * emitted)
