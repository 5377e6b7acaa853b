"""How long drafts may be with so many requests at once, as `outrider tune` measured it.

The more requests share a forward, the more a drafted row costs, since a forward over many rows is
limited by arithmetic and not by memory. A schedule has a limit for each measured number of requests
and joins them without steps: a table with steps loses where a load lies just beside one of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import log2

from outrider.core.types import Budget

Cap = int | None
"""Most drafted tokens of a request in a round; None: no limit."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Limits by the number of requests at once.

    Attributes:
        caps: by number of requests, the limit. It never grows with the number. Without any,
            nothing is limited.

    Raises:
        ValueError: a number of requests is not positive, or a limit negative or larger than that
            of fewer requests.
    """

    caps: Mapping[int, Cap] = field(default_factory=dict[int, Cap])

    def __post_init__(self) -> None:
        known = [_order(cap) for _, cap in sorted(self.caps.items())]
        wrong = any(count < 1 for count in self.caps) or any(cap < 0 for cap in known)
        if wrong or any(b > a for a, b in pairwise(known)):
            raise ValueError("the limits of a schedule do not descend from at least 0")

    def cap(self, requests: int) -> Cap:
        """Return the limit for so many requests.

        Between two measured numbers it follows the logarithm of the number. Beyond the last one,
        all requests together draft as many tokens as there.
        """
        counts = sorted(self.caps)
        below = [count for count in counts if count <= requests]
        if not below:
            return self.caps[counts[0]] if counts else None
        low = below[-1]
        first = self.caps[low]
        if first is None:
            return None
        if low == counts[-1]:
            return first * low // requests
        high = counts[len(below)]
        last = self.caps[high]
        assert last is not None  # limits never grow
        return int(first - (first - last) * log2(requests / low) / log2(high / low))


def limited(budget: Budget, cap: Cap) -> Budget:
    """Return the same budget, for no more tokens than a limit allows."""
    if cap is None:
        return budget
    return replace(budget.clipped(cap), nodes=min(budget.nodes, cap))


def _order(cap: Cap) -> float:
    return float("inf") if cap is None else cap
