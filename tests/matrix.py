"""Tables of test cases of which the fast tests run a part that covers every value, and most pairs.

The rest are marked as slow.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, combinations, product, repeat
from math import prod
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

Case = tuple[int, ...]
"""One combination: the index of its value on each axis."""


def matrix(*axes: Iterable[Any], crossed: int | None = None) -> list[ParameterSet]:
    """All combinations of the values of some axes; those outside a covering set are slow.

    Args:
        axes: The values of each parameter; of a dictionary the keys.
        crossed: So many leading axes are crossed in full in the fast set, which has as many cases
            as they have combinations, or as the longest other axis has values. By default two,
            and one if there are no more than two axes.
    """
    values = [list(axis) for axis in axes]
    sizes = [len(axis) for axis in values]
    leading = crossed if crossed is not None else 2 if len(sizes) > 2 else 1
    fast = _covering(sizes, leading)
    return [
        pytest.param(
            *(axis[i] for axis, i in zip(values, case, strict=True)),
            marks=() if case in fast else pytest.mark.slow,
        )
        for case in product(*map(range, sizes))
    ]


def _covering(sizes: Sequence[int], crossed: int) -> set[Case]:
    """All combinations of the leading axes; on each other axis the value least used so far."""
    leads = list(product(*map(range, sizes[:crossed])))
    rounds = -(-max(sizes[crossed:], default=1) // prod(sizes[:crossed]))
    uses: Counter[tuple[tuple[int, int], ...]] = Counter()
    found = set()
    for lead in chain.from_iterable(repeat(leads, rounds)):
        case = lead
        for size in sizes[crossed:]:
            case = (*case, _least_used(case, size, uses))
        places = list(enumerate(case))
        uses.update((place,) for place in places)
        uses.update(combinations(places, 2))
        found.add(case)
    return found


def _least_used(case: Case, size: int, uses: Counter[tuple[tuple[int, int], ...]]) -> int:
    """The value of the next axis that has been least often beside those of `case`, or at all."""

    def count(value: int) -> tuple[int, int]:
        own = (len(case), value)
        return sum(uses[(other, own)] for other in enumerate(case)), uses[(own,)]

    return min(range(size), key=count)
