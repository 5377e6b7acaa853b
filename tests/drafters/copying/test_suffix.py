"""SuffixDecoding: what the spec says must hold."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.tree import depths
from outrider.core.types import NO_IDS, Budget
from outrider.drafters.copying.suffix import Suffix
from outrider.memories.trie import SuffixTrie
from outrider.policies import FixedTree
from tests.drafters.copying.copy_rigs import begin, check_equality, counting, propose, tokens
from tests.exactness.setups.rigs import run, stage
from tests.matrix import matrix

pytestmark = pytest.mark.method("suffix")


def alone(**options) -> Suffix:
    return Suffix(memory=None, **options)


def expected_score(text: list[int], tail: list[int], drafter: Suffix, size: int) -> float:
    """The best sum of chances over all lengths of match, by counting."""
    whole, best = text + tail, 0.0
    for p in range(1, len(whole) + 1):
        context = tuple(whole[len(whole) - p :])
        counts: Counter[tuple[int, ...]] = Counter()
        total = 0
        for i in range(len(text) - p + 1):
            if tuple(text[i : i + p]) == context:
                total += i + p < len(text) or bool(tail)
                for n in range(1, size + 1):
                    if i + p + n <= len(text):
                        counts[tuple(text[i + p : i + p + n])] += 1
        limit = min(size, int(drafter.factor * p + drafter.offset))
        top = sorted((c for c in counts.values() if c >= drafter.least * total), reverse=True)
        if total:
            best = max(best, sum(top[:limit]) / total)
    return best


@given(
    text=st.lists(st.integers(0, 2), min_size=1, max_size=30),
    tail=st.lists(st.integers(0, 2), max_size=3),
    factor=st.sampled_from([1.0, 2.0]),
    offset=st.sampled_from([0.0, 1.0]),
    size=st.integers(1, 8),
)
def test_the_best_draft_over_all_matches(text, tail, factor, offset, size) -> None:
    drafter = alone(factor=factor, offset=offset, levels=(1, 4))
    draft = propose(drafter, begin(drafter, text), tail, size)
    best = expected_score(text, tail, drafter, size)
    assert 0.9 * best - 1e-9 <= (draft.score or 0.0) <= best + 1e-9
    if len(draft):
        assert len(draft) <= min(size, int(factor * draft.match + offset))
        assert draft.origin == ("suffix4" if draft.match >= 4 else "suffix1")


@given(
    text=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    factor=st.sampled_from([0.5, 1.0, 3.0]),
    offset=st.sampled_from([0.0, 2.0]),
    shape=st.sampled_from(["tree", "chain"]),
)
def test_draft_size_is_at_most_factor_times_match_plus_offset(text, factor, offset, shape) -> None:
    """Spec B4 (d)."""
    drafter = alone(factor=factor, offset=offset, shape=shape)
    draft = propose(drafter, begin(drafter, text), size=50)
    assert len(draft) <= int(factor * draft.match + offset)
    if shape == "chain":
        assert draft.parents.tolist() == list(range(-1, len(draft) - 1))


def test_counts_decide_and_siblings_are_tried_in_order() -> None:
    text = [1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2]
    drafter = alone(factor=2.0)
    draft = propose(drafter, begin(drafter, text), size=4)
    assert tokens(draft)[:2] == [3, 4]
    assert draft.parents.tolist()[:2] == [-1, -1]
    assert draft.match == 2
    assert draft.score == pytest.approx(1 + 1 / 3 + 1 / 3)
    chain = propose(alone(factor=2.0, shape="chain"), begin(alone(), text), size=2)
    assert tokens(chain) == [3, 9] and chain.score == pytest.approx(1.0)


def test_what_was_written_before_shortens_the_next_request() -> None:
    drafter = Suffix()
    first = begin(drafter, [1, 2, 3])
    drafter._commit(first, [4, 5, 6, 7])
    second = begin(drafter, [9, 8])
    assert not len(propose(drafter, second))
    drafter._commit(second, [4, 5])
    draft = propose(drafter, second)
    assert (tokens(draft), draft.match, draft.score) == ([6, 7], 2, 2.0)
    assert tokens(propose(drafter, second, tail=[6])) == [7]
    assert not len(propose(Suffix(), begin(Suffix(), [9, 4, 5]))), "another memory"
    assert not len(propose(alone(), begin(alone(), [9, 4, 5])))


def test_of_equal_drafts_that_of_the_longer_match_is_taken() -> None:
    """Spec B4: ties go to the longer match, here the one in the memory."""
    drafter = Suffix()
    drafter._commit(begin(drafter, [0]), [7, 8, 5])
    draft = propose(drafter, begin(drafter, [8, 4, 7, 8]))
    assert (tokens(draft), draft.match, draft.score) == ([5], 2, 1.0)
    assert tokens(propose(alone(), begin(alone(), [8, 4, 7, 8]))) == [4]


def test_a_request_does_not_find_its_own_end_in_the_memory() -> None:
    drafter = Suffix(levels=(1,))
    state = begin(drafter, [1])
    drafter._commit(state, [5, 6])
    assert not len(propose(drafter, state))
    other = begin(drafter, [5])
    draft = propose(drafter, other)
    assert (tokens(draft), draft.score) == ([6], 1.0)


def test_evicted_requests_are_forgotten_and_the_others_go_on() -> None:
    drafter = Suffix(memory=SuffixTrie(max_tokens=12))
    first, second = begin(drafter, [0]), begin(drafter, [0])
    drafter._commit(first, [1, 2, 3, 4, 5, 6])
    drafter._commit(second, [11, 12, 13, 14, 15, 16])
    assert tokens(propose(drafter, begin(drafter, [1, 2]))) == [3, 4]
    drafter._commit(second, [17, 18])
    assert not len(propose(drafter, begin(drafter, [1, 2])))
    drafter._commit(first, [7, 8])  # evicted while it was written: it begins anew
    assert drafter.memory is not None and drafter.memory.num_tokens <= 12
    drafter._commit(first, [9, 10, 11, 12])
    third = begin(drafter, [11, 12])
    assert tokens(propose(drafter, third)) == [] or len(drafter.memory.texts) == 2
    for _ in range(6):  # compacted under running requests
        state = begin(drafter, [0])
        drafter._commit(state, [21, 22, 23, 24, 21, 22])
        assert tokens(propose(drafter, state))[:1] == [23]


@pytest.mark.usefixtures("unchecked")
@given(
    pieces=st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=12),
    own=st.integers(1, 12),
    shared=st.integers(1, 12),
)
def test_texts_that_outgrow_their_limits_many_times(pieces, own, shared) -> None:
    """A text that was evicted, and whose states were compacted away, has no end to draft from."""
    drafter = Suffix(memory=SuffixTrie(max_tokens=shared), max_tokens=own, depth=4)
    state = begin(drafter, [1, 2, 1, 2])
    for piece in pieces:
        for tail in ([], [1], [2, 2]):
            draft = propose(drafter, state, tail=tail)
            assert all(token <= 2 for token in tokens(draft))
        drafter._commit(state, piece)
        assert state.own.num_tokens <= own
        assert drafter.memory is not None and drafter.memory.num_tokens <= shared


def test_no_draft_is_deeper_than_what_is_counted() -> None:
    """Match and draft together are at most `2 * depth` tokens, the longest substrings counted."""
    for depth in (1, 2, 3):
        drafter = alone(depth=depth, offset=9.0, least=0.0)
        draft = propose(drafter, begin(drafter, [1, 2, 3, 4] * 6), size=20)
        assert max(depths(draft.parents)) + 1 == 2 * depth - draft.match
        assert draft.match == 1 or depth > 1


def test_another_drafters_counts_are_not_taken_over() -> None:
    """A generator may change its strategy from call to call."""
    short, long = alone(depth=2), alone(depth=8)
    old = begin(short, [1, 2, 3, 1, 2, 3])
    new = begin(long, [1, 2, 3, 1, 2, 3, 1, 2], previous=old)
    assert new.own.depth == 16 and new.own.num_tokens == 8


def test_no_budget_no_draft_and_shares() -> None:
    drafter = alone(factor=4.0)
    state = begin(drafter, [1, 2, 3, 4, 5, 1, 2, 3])
    off = Budget(depth=5, nodes=5, shares={"suffix3": 0, "suffix2": 2, "suffix1": 0})
    [draft] = drafter.propose([state], [NO_IDS], [off])
    assert not len(draft), "shorter suffixes that end at the same places are one match"
    [draft] = drafter.propose([state], [NO_IDS], [Budget.chain(0)])
    assert not len(draft)
    [draft] = drafter.propose([state], [NO_IDS], [Budget(depth=2, nodes=9)])
    assert tokens(draft) == [4, 5]


def test_nothing_follows_an_end_token() -> None:
    drafter = alone(factor=4.0)
    assert tokens(propose(drafter, begin(drafter, [1, 2, 0, 5, 1, 2], end_ids=[0]))) == [0]
    assert not len(propose(drafter, begin(drafter, [5])))


def test_the_next_turn_goes_on_with_the_counts() -> None:
    drafter = Suffix()
    old = begin(drafter, [1, 2, 3])
    drafter._commit(old, [4, 5])
    new = begin(drafter, [1, 2, 3, 4, 5, 6, 3, 4], previous=old)
    assert new.own is old.own
    assert tokens(propose(drafter, new)) == [5, 6]
    assert begin(drafter, [2, 3, 4, 5], previous=old).own is not old.own


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("shape", "policy"), matrix(["tree", "chain"], [FixedTree(depth=4, nodes=9), None])
)
def test_drafted_equals_undrafted(policy, shape) -> None:
    assert check_equality(Suffix(factor=3.0, shape=shape), policy) > 50


def test_a_long_loop_is_drafted_at_full_size() -> None:
    """What grows from the longest match is counted as well."""
    for shape in ("tree", "chain"):
        drafter = Suffix(shape=shape, depth=8)
        state = begin(drafter, [7] * 300)
        draft = propose(drafter, state, size=16)
        assert (tokens(draft), draft.match) == ([7] * 8, 8)
        assert draft.score == pytest.approx(8, rel=0.1)


def test_copies_are_accepted() -> None:
    for drafter in (alone(factor=2.0), Suffix(factor=2.0)):
        [g] = run(stage(counting(), drafter, window=9), [(0,)], max_new_tokens=100)
        assert g.output == [(i + 1) % 7 for i in range(100)]
        assert g.counters.accepted == g.counters.drafted == g.counters.sources["suffix"] > 60
        assert set(g.counters.tallies) <= set(drafter.origins)


@pytest.mark.parametrize(
    "options",
    [{"factor": -1.0}, {"least": 2.0}, {"depth": 0}, {"shape": "star"}, {"levels": (0, 1)}],
)
def test_bad_options_are_refused(options) -> None:
    with pytest.raises(OptionError):
        Suffix(**options)
