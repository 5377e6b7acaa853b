"""CopySpec: what the spec says must hold, and a twin that looks at every place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Budget
from outrider.drafters import Lookup
from outrider.drafters.copying.copyspec import CopySpec
from tests.drafters.copying.copy_rigs import begin, check_equality, counting, propose, tokens
from tests.exactness.setups.rigs import run, stage

pytestmark = pytest.mark.method("copyspec")


def twin(drafter: CopySpec, text: list[int], tail: list[int], size: int) -> list[int]:
    n, whole = drafter.match_length, text + tail
    if len(whole) < n:
        return []
    places = [p for p in range(n, len(text)) if text[p - n : p] == whole[len(whole) - n :]]
    if not places:
        return []
    place = places[0] if drafter.occurrence == "first" else places[-1]
    return whole[place : place + min(size, drafter.copy_length)]


@given(
    prompt=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    grown=st.lists(st.integers(0, 2), max_size=20),
    tail=st.lists(st.integers(0, 2), max_size=4),
    match_length=st.integers(1, 4),
    copy_length=st.integers(1, 12),
    occurrence=st.sampled_from(["latest", "first"]),
    size=st.integers(1, 12),
)
def test_equals_its_brute_force_twin(
    prompt, grown, tail, match_length, copy_length, occurrence, size
) -> None:
    drafter = CopySpec(match_length=match_length, copy_length=copy_length, occurrence=occurrence)
    state = begin(drafter, prompt)
    for token in grown:
        drafter._commit(state, [token])
    expected = twin(drafter, prompt + grown, tail, size)
    draft = propose(drafter, state, tail, size)
    assert tokens(draft) == expected
    assert draft.origin == ("copyspec" if expected else "")
    assert draft.match == (match_length if expected else 0)


def test_never_proposes_beyond_known_tokens() -> None:
    """Spec A4 (d). Three tokens are known to follow, so three are proposed."""
    state = begin(CopySpec(), [1, 2, 3, 4, 5, 6, 1, 2, 3])
    assert tokens(propose(CopySpec(), state, size=10)) == [4, 5, 6, 1, 2, 3]
    state = begin(CopySpec(match_length=1), [7, 7])
    assert tokens(propose(CopySpec(match_length=1), state, size=10)) == [7]


def test_gamma_larger_than_the_text_gives_no_draft() -> None:
    """Spec A4 (d)."""
    for prompt in ([5], [5, 5], [5, 5, 5]):
        assert not len(propose(CopySpec(match_length=3), begin(CopySpec(match_length=3), prompt)))


def test_first_or_latest_occurrence() -> None:
    prompt = [1, 2, 3, 8, 8, 1, 2, 3, 9, 9, 1, 2, 3]
    first, latest = CopySpec(), CopySpec(occurrence="latest")
    assert tokens(propose(first, begin(first, prompt), size=2)) == [8, 8]
    assert tokens(propose(latest, begin(latest, prompt), size=2)) == [9, 9]


def test_nothing_follows_an_end_token_and_no_budget_means_no_draft() -> None:
    state = begin(CopySpec(), [1, 2, 3, 0, 5, 1, 2, 3], end_ids=[0])
    assert tokens(propose(CopySpec(), state)) == [0]
    [draft] = CopySpec().propose([state], [NO_IDS], [Budget.chain(0)])
    assert not len(draft)
    off = Budget(depth=5, nodes=5, shares={"copyspec": 0})
    [draft] = CopySpec().propose([state], [NO_IDS], [off])
    assert not len(draft)


def test_the_next_turn_is_added_to_the_index() -> None:
    drafter = CopySpec()
    old = begin(drafter, [1, 2, 3, 4])
    drafter._commit(old, [5, 6])
    new = begin(drafter, [1, 2, 3, 4, 5, 6, 7, 2, 3, 4], previous=old)
    assert new.index is old.index
    assert tokens(propose(drafter, new, size=3)) == [5, 6, 7]
    assert begin(drafter, [9, 2, 3, 4, 5, 6, 7], previous=old).index is not old.index


def test_another_drafters_index_is_not_taken_over() -> None:
    """A generator may change its strategy from call to call; both remember an index."""
    old = begin(Lookup(max_ngram=2, min_ngram=1), [1, 2, 3, 1, 2])
    for drafter in (CopySpec(match_length=3), CopySpec(match_length=2)):
        new = begin(drafter, [1, 2, 3, 1, 2], previous=old)
        assert new.index.lengths == (drafter.match_length,)
        assert new.index.occurrence == "first" and new.index.text == [1, 2, 3, 1, 2]


@pytest.mark.usefixtures("unchecked")
def test_drafted_equals_undrafted() -> None:
    assert check_equality(CopySpec(match_length=2, occurrence="latest")) > 50


def test_copies_are_accepted() -> None:
    [g] = run(stage(counting(), CopySpec(), window=9), [(0,)], max_new_tokens=100)
    assert g.output == [(i + 1) % 7 for i in range(100)]
    assert g.counters.accepted == g.counters.drafted == g.counters.sources["copyspec"] > 60


@pytest.mark.parametrize(
    "options", [{"match_length": 0}, {"copy_length": 0}, {"occurrence": "newest"}]
)
def test_bad_options_are_refused(options) -> None:
    with pytest.raises(OptionError):
        CopySpec(**options)
