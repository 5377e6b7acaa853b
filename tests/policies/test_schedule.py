"""Schedules: limits of drafts by the number of requests at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.types import Budget
from outrider.policies.schedule import Schedule, limited


def test_between_measured_numbers_the_limit_has_no_step() -> None:
    schedule = Schedule({1: 8, 16: 0})
    assert [schedule.cap(n) for n in (1, 2, 4, 8, 16)] == [8, 6, 4, 2, 0]


def test_beyond_the_last_number_all_requests_draft_no_more_than_there() -> None:
    assert [Schedule({1: 4}).cap(n) for n in (1, 2, 3, 4, 5, 100)] == [4, 2, 1, 1, 0, 0]
    assert Schedule({1: 8, 4: 4}).cap(8) == 2


def test_below_the_first_number_its_limit_holds() -> None:
    assert Schedule({4: 3}).cap(1) == 3


def test_where_nothing_is_limited_the_policy_chooses() -> None:
    assert Schedule().cap(1) is None and Schedule().cap(64) is None
    adaptive = Schedule({1: None, 4: None, 16: 0})
    assert [adaptive.cap(n) for n in (1, 4, 15, 16, 64)] == [None, None, None, 0, 0]


@given(
    st.dictionaries(st.integers(1, 64), st.none() | st.integers(0, 16), max_size=5),
    st.integers(1, 200),
)
def test_limits_never_grow_with_the_number(caps: dict[int, int | None], requests: int) -> None:
    order = sorted(caps.values(), key=lambda cap: 99 if cap is None else cap, reverse=True)
    schedule = Schedule(dict(zip(sorted(caps), order, strict=True)))
    here, more = schedule.cap(requests), schedule.cap(requests + 1)
    assert here is None or (more is not None and 0 <= more <= here)
    for number, cap in schedule.caps.items():
        assert schedule.cap(number) == cap


@pytest.mark.parametrize("caps", [{1: 2, 4: 3}, {1: 0, 2: None}, {0: 1}, {1: -1}])
def test_limits_that_grow_are_refused(caps: dict[int, int | None]) -> None:
    with pytest.raises(ValueError, match="descend"):
        Schedule(caps)


def test_a_limit_counts_all_tokens_of_a_tree() -> None:
    tree = Budget(depth=6, nodes=16, shares={"lookup": 6})
    assert (limited(tree, 4).depth, limited(tree, 4).nodes) == (4, 4)
    assert (limited(tree, 8).depth, limited(tree, 8).nodes) == (6, 8)
    assert limited(tree, None) is tree
    assert limited(tree, 0) == Budget(depth=0, nodes=0, shares={"lookup": 6})
