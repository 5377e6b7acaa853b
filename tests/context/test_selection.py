"""The state machine that chooses chunks: what holds whatever the scores, sizes and pins are."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from outrider.context.config import ContextConfig
from outrider.context.selection import Selection
from outrider.core.errors import ContextError, OptionError
from outrider.core.types import LongContext, Passage

NOTHING = Passage("", ())


def long_context(sizes: list[int], **settings: Any) -> LongContext:
    chunks = tuple(Passage("", (i,) * size) for i, size in enumerate(sizes))
    return LongContext(start=0, chunks=chunks, query=NOTHING, **settings)


@dataclass
class Told:
    """An index that answers what it is told, and counts how often it is asked."""

    now: list[float]
    asked: int = 0
    mixes: list[float] = field(default_factory=list)

    def scores(self, query: Passage, recent: Passage | None, mix: float) -> np.ndarray:
        self.asked += 1
        return np.array(self.now, dtype=np.float64)


def begun(
    scores: list[float], *, sizes: list[int] | None = None, room: int = 10**6, **settings: Any
) -> tuple[Selection, Told]:
    context = long_context(sizes or [10] * len(scores))
    index = Told(scores)
    selection = Selection(context, index, ContextConfig(**settings), room)
    selection.begin()
    return selection, index


FREE: dict[str, Any] = {"pin_ends": False, "hysteresis": 0.0}


# -- the first choice --------------------------------------------------------------------------


def test_the_best_are_chosen_in_the_order_of_the_document() -> None:
    selection, _ = begun([0.1, 0.9, 0.2, 0.8], keep_ratio=0.5, **FREE)
    assert selection.chosen == (1, 3)
    decision = selection.decisions[0]
    assert (decision.generated, decision.admitted, decision.evicted) == (0, (1, 3), ())


def test_equal_scores_go_to_the_lower_index() -> None:
    assert begun([0.5] * 5, keep_ratio=0.4, **FREE)[0].chosen == (0, 1)


def test_k_is_rounded_up() -> None:
    assert len(begun([0.0] * 5, keep_ratio=0.5, **FREE)[0].chosen) == 3
    assert len(begun([0.0] * 5, keep_ratio=0.6, **FREE)[0].chosen) == 3


def test_the_ends_are_kept_where_a_place_is_left_for_another() -> None:
    scores = [0.0, 0.1, 0.9, 0.8, 0.0, 0.0]
    assert begun(scores, keep_ratio=0.5)[0].chosen == (0, 2, 5)
    assert begun(scores, keep_ratio=0.3)[0].chosen == (2, 3)
    assert begun(scores, keep_ratio=0.5, room=25)[0].chosen == (2, 3)
    assert begun(scores, keep_ratio=0.5, room=30)[0].chosen == (0, 2, 5)


def test_a_chunk_that_does_not_fit_is_passed_over() -> None:
    selection, _ = begun([0.9, 0.8, 0.7], sizes=[6, 9, 4], room=10, keep_ratio=1.0, **FREE)
    assert selection.chosen == (0, 2)


def test_where_all_are_read_nobody_is_asked() -> None:
    selection, index = begun([0.1] * 4, keep_ratio=1.0)
    selection.refresh(64, NOTHING)
    assert selection.chosen == (0, 1, 2, 3) and not index.asked
    assert [decision.admitted for decision in selection.decisions] == [(0, 1, 2, 3), ()]


def test_pins_and_bans() -> None:
    context = long_context([10] * 6).pin(4).ban(0, 1)
    selection = Selection(context, Told([0.9, 0.9, 0.1, 0.8, 0.0, 0.0]), ContextConfig(), 10**6)
    selection.config = ContextConfig(keep_ratio=0.5)
    selection.begin()
    assert selection.chosen == (3, 4, 5)  # the last is an end, the first is banned
    only = replace(selection, context=context.only(2), decisions=[])
    only.begin()
    assert only.chosen == (2,)


def test_more_pins_than_places_are_all_read() -> None:
    context = long_context([10] * 6).pin(1, 2, 3, 4)
    selection = Selection(context, Told([0.0] * 6), ContextConfig(keep_ratio=0.3), 10**6)
    assert selection.begin().chosen == (1, 2, 3, 4)


def test_one_chunk_and_none() -> None:
    assert begun([0.3], keep_ratio=0.1)[0].chosen == (0,)
    assert begun([])[0].chosen == ()


def test_what_does_not_fit_is_named() -> None:
    context = long_context([10, 20, 30]).pin(1, 2)
    with pytest.raises(
        ContextError, match=r"2 pinned chunks have 50 tokens.* at most 49 fit.*budget"
    ):
        Selection(context, Told([0.0] * 3), ContextConfig(), 49).begin()
    with pytest.raises(
        ContextError, match=r"smallest chunk has 10 tokens.* at most 9 fit.*chunk_size"
    ):
        begun([0.0] * 3, sizes=[10, 20, 30], room=9)


def test_scores_that_are_no_numbers_are_the_lowest() -> None:
    nan, inf = float("nan"), float("inf")
    selection, index = begun([nan, 0.1, nan, -0.5], keep_ratio=0.5, **FREE, max_swaps=2)
    assert selection.chosen == (1, 3)
    index.now = [0.2, nan, inf, nan]
    decision = selection.refresh(4, NOTHING)
    assert decision.chosen == (0, 2)
    assert decision.scores.tolist() == [0.2, -1.0, 1.0, -1.0]


@pytest.mark.parametrize("scores", [[0.1, 0.2], [0.1] * 4, [[0.1], [0.2], [0.3]], None])
def test_a_ranker_that_gives_another_number_of_scores_is_named(scores: Any) -> None:
    context = long_context([10] * 3)
    selection = Selection(context, Told(scores), ContextConfig(keep_ratio=0.4), 10**6)
    with pytest.raises(OptionError, match=r"scores of shape .* for 3 chunks"):
        selection.begin()


# -- later looks -------------------------------------------------------------------------------


def test_a_better_chunk_takes_the_place_of_the_worst() -> None:
    selection, index = begun([0.9, 0.5, 0.4, 0.1], keep_ratio=0.5, pin_ends=False, hysteresis=0.1)
    index.now = [0.9, 0.5, 0.6, 0.1]
    assert selection.refresh(64, NOTHING).admitted == ()  # not by more than the hysteresis
    index.now = [0.9, 0.5, 0.7, 0.1]
    decision = selection.refresh(128, NOTHING)
    assert (decision.generated, decision.admitted, decision.evicted, decision.chosen) == (
        128,
        (2,),
        (1,),
        (0, 2),
    )
    assert len(selection.decisions) == 3


def test_no_more_swaps_than_allowed() -> None:
    selection, index = begun([1, 1, 1, 0, 0, 0], keep_ratio=0.5, max_swaps=2, **FREE)
    index.now = [0, 0.1, 0.2, 1, 1, 1]
    assert selection.refresh(1, NOTHING).chosen == (2, 3, 4)
    assert selection.refresh(2, NOTHING).chosen == (3, 4, 5)


def test_a_large_chunk_takes_the_place_of_several() -> None:
    sizes = [4, 4, 4, 9]
    selection, index = begun([0.3, 0.2, 0.1, 0.0], sizes=sizes, room=12, keep_ratio=0.75, **FREE)
    assert selection.chosen == (0, 1, 2)
    index.now = [0.3, 0.2, 0.8, 0.9]
    assert selection.refresh(1, NOTHING).chosen == (3,)
    selection, index = begun([0.3, 0.2, 0.1, 0.0], sizes=sizes, room=12, keep_ratio=0.75, **FREE)
    index.now = [0.3, 0.2, 0.95, 0.9]  # it is not better than all that would have to go
    assert selection.refresh(1, NOTHING).chosen == (0, 1, 2)


def test_places_grow_at_each_refresh() -> None:
    selection, index = begun([0.5, 0.4, 0.3, 0.2], keep_ratio=0.25, growth=1, **FREE)
    index.now = [0.0, 0.1, 0.2, 0.3]
    selection.config = replace(selection.config, max_swaps=0)
    assert [selection.refresh(i, NOTHING).chosen for i in (1, 2, 3, 4)] == [
        (0, 3), (0, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3),
    ]  # fmt: skip


def test_pinned_chunks_stay() -> None:
    selection, index = begun([0.5, 0.4, 0.3, 0.2, 0.1, 0.1], keep_ratio=0.5)
    index.now = [0.0, 0.4, 0.9, 0.8, 0.7, 0.0]
    assert selection.refresh(1, NOTHING).chosen == (0, 2, 5)


def test_a_fork_goes_its_own_way() -> None:
    selection, index = begun([0.9, 0.1], keep_ratio=0.5, **FREE)
    fork = selection.fork()
    index.now = [0.1, 0.9]
    fork.refresh(1, NOTHING)
    assert (selection.chosen, fork.chosen) == ((0,), (1,))
    assert len(selection.decisions) == 1


# -- whatever the scores are -------------------------------------------------------------------

SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5]), st.floats(-1, 1, width=32))


@st.composite
def rounds(draw: Any) -> tuple[list[list[float]], list[int], int]:
    """Scores at each refresh, sizes, chunk budget."""
    count = draw(st.integers(1, 8))
    scores = st.lists(SCORES, min_size=count, max_size=count)
    sizes = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    return draw(st.lists(scores, min_size=1, max_size=5)), sizes, draw(st.integers(9, 50))


def played(
    scores: list[list[float]], sizes: list[int], room: int, **settings: Any
) -> list[tuple[int, ...]]:
    selection, index = begun(scores[0], sizes=sizes, room=room, **settings)
    for at, now in enumerate(scores[1:]):
        index.now = now
        selection.refresh(at, NOTHING)
    return [decision.chosen for decision in selection.decisions]


@given(rounds(), st.sampled_from([0.3, 0.5, 0.7]))
def test_a_large_hysteresis_or_fixed_scores_change_nothing(drawn: Any, ratio: float) -> None:
    scores, sizes, room = drawn
    calm = played(scores, sizes, room, keep_ratio=ratio, hysteresis=3.0)
    fixed = played([scores[0]] * len(scores), sizes, room, keep_ratio=ratio, hysteresis=0.0)
    assert set(calm) == set(fixed) == {calm[0]}


@given(rounds(), st.sampled_from([0.125, 1.0, 4.0]))
def test_only_the_order_of_scores_matters(drawn: Any, scale: float) -> None:
    scores, sizes, room = drawn
    scaled = [[scale * x for x in now] for now in scores]
    plain = played(scores, sizes, room, keep_ratio=0.5, hysteresis=0.0)
    assert played(scaled, sizes, room, keep_ratio=0.5, hysteresis=0.0) == plain
    assert played(scores, sizes, room, keep_ratio=0.5, hysteresis=0.0) == plain


class Looking(RuleBasedStateMachine):
    """Random looks at random inputs, forks in between."""

    @initialize(data=st.data(), ratio=st.floats(0.05, 1), growth=st.integers(0, 2),
                swaps=st.integers(0, 3), ends=st.booleans(), room=st.integers(1, 60))  # fmt: skip
    def start(
        self, data: Any, ratio: float, growth: int, swaps: int, ends: bool, room: int
    ) -> None:
        sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=10))
        some = st.frozensets(st.integers(0, len(sizes) - 1), max_size=3)
        pinned, banned = data.draw(some), data.draw(some)
        context = long_context(sizes, pinned=pinned, banned=banned - pinned)
        self.index = Told(data.draw(st.lists(SCORES, min_size=len(sizes), max_size=len(sizes))))
        config = ContextConfig(
            keep_ratio=ratio, growth=growth, max_swaps=swaps, pin_ends=ends, hysteresis=0.1
        )
        self.selection = Selection(context, self.index, config, room)
        try:
            self.selection.begin()
        except ContextError:
            assume(False)

    @rule(data=st.data())
    def decision(self, data: Any) -> None:
        selection, count = self.selection, len(self.index.now)
        before, asked = selection.chosen, self.index.asked
        free = self.places() - len(before)
        self.index.now = data.draw(st.lists(SCORES, min_size=count, max_size=count))
        decision = selection.refresh(len(selection.decisions), NOTHING)
        assert set(decision.chosen) == set(before) - set(decision.evicted) | set(decision.admitted)
        assert not set(decision.admitted) & set(before) and set(decision.evicted) <= set(before)
        assert len(decision.admitted) <= max(free, 0) + selection.config.max_swaps
        assert not set(decision.evicted) & selection.pins
        if decision.evicted and self.index.asked > asked:
            best = max(decision.scores[i] for i in decision.admitted)
            assert all(best > decision.scores[i] + 0.1 for i in decision.evicted)

    @rule()
    def fork(self) -> None:
        before = [decision.chosen for decision in self.selection.decisions]
        old, self.selection = self.selection, self.selection.fork()
        self.selection.refresh(0, NOTHING)
        assert [decision.chosen for decision in old.decisions] == before

    def places(self) -> int:
        selection = self.selection
        chunks = len(selection.context.chunks)
        places = selection.config.kept(chunks) + selection.config.growth * len(selection.decisions)
        return min(max(places, len(selection.context.pinned)), chunks)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "selection") or not self.selection.decisions:
            return
        selection, context = self.selection, self.selection.context
        chosen = selection.chosen
        assert list(chosen) == sorted(set(chosen))
        assert sum(len(context.chunks[i]) for i in chosen) <= selection.chunk_budget
        assert selection.pins <= set(chosen) and not context.banned & set(chosen)
        assert len(chosen) <= self.places()


TestLooking = Looking.TestCase
