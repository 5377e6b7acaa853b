"""SAM-Decoding: what the spec says must hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Budget
from outrider.drafters.copying.sam import Sam
from outrider.memories.frozen import FrozenAutomaton
from outrider.policies import FixedTree
from tests.drafters.copying.copy_rigs import begin, check_equality, counting, propose, tokens
from tests.exactness.setups.rigs import run, stage

pytestmark = pytest.mark.method("sam")

CORPUS = FrozenAutomaton.build(
    [[1, 2, 3, 4, 5, 6, 0, 1, 2, 3], [4, 4, 4, 2, 1, 6, 5, 3], [5, 5, 5, 2, 2, 6, 1, 3, 5, 2, 4]]
)


def longest_earlier(text: list[int], whole: list[int]) -> int:
    end = len(text) if len(whole) > len(text) else len(text) - 1
    for n in range(len(whole), 0, -1):
        if any(text[p - n : p] == whole[-n:] for p in range(n, end + 1)):
            return n
    return 0


@given(
    prompt=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    grown=st.lists(st.integers(0, 2), max_size=15),
    tail=st.lists(st.integers(0, 2), max_size=4),
    size=st.integers(1, 12),
)
def test_copies_after_the_longest_match(prompt, grown, tail, size) -> None:
    drafter = Sam(levels=(1, 3))
    state = begin(drafter, prompt)
    drafter._commit(state, grown)
    draft = propose(drafter, state, tail, size)
    text = prompt + grown
    longest = longest_earlier(text, text + tail)
    if not longest:
        assert not len(draft)
        return
    assert 1 <= draft.match <= longest
    assert draft.origin == ("sam3" if draft.match >= 3 else "sam1")
    assert len(draft) <= min(size, 4 * longest)
    whole, n = text + tail, draft.match
    places = [p for p in range(n, len(text) + 1) if text[p - n : p] == whole[-n:]]
    copy = list(whole)
    for _ in range(len(draft)):
        copy.append(copy[places[0] + len(copy) - len(whole)])
    assert tokens(draft) == copy[len(whole) :]


def test_draft_length_follows_the_match() -> None:
    """min(40, 4 * match), or the budget."""
    base = list(range(100, 200))
    for match, expected in ((2, 8), (5, 20), (9, 36), (12, 40), (30, 40)):
        prompt = [*base, 7, *base[10 : 10 + match]]
        draft = propose(Sam(), begin(Sam(), prompt), size=60)
        assert draft.match == match
        assert tokens(draft) == base[10 + match : 10 + match + expected]
        assert len(propose(Sam(), begin(Sam(), prompt), size=3)) == 3


def test_origins_tell_how_long_the_match_was() -> None:
    assert Sam().origins_by_match == {17: "sam17", 9: "sam9", 5: "sam5", 3: "sam3", 2: "sam2"}
    base = list(range(100, 200))
    budget = Budget(depth=9, nodes=9, shares={"sam2": 0, "sam3": 1, "sam17": 5})
    sizes = {}
    for match in (1, 2, 3, 4, 5, 8, 9, 16, 17, 40):
        state = begin(Sam(), [*base, 7, *base[10 : 10 + match]])
        [draft] = Sam().propose([state], [NO_IDS], [budget])
        sizes[match] = (draft.origin, len(draft))
    assert sizes == {
        1: ("", 0),
        2: ("", 0),
        3: ("sam3", 1),
        4: ("sam3", 1),
        5: ("sam5", 9),
        8: ("sam5", 9),
        9: ("sam9", 9),
        16: ("sam9", 9),
        17: ("sam17", 5),
        40: ("sam17", 5),
    }


def test_a_match_in_the_corpus_is_handicapped_by_five() -> None:
    corpus = FrozenAutomaton.build([[*range(50, 90)]])
    drafter = Sam(static=corpus)
    # Six tokens in the corpus count as one, less than the least match.
    assert not len(propose(drafter, begin(drafter, [1, *range(50, 56)])))
    draft = propose(drafter, begin(drafter, [1, *range(50, 57)]), size=30)
    assert (tokens(draft), draft.match) == ([*range(57, 65)], 2)
    # Two in the text and seven in the corpus: a tie, which the text wins.
    prompt = [55, 56, 3, 3, 3, *range(50, 57)]
    assert tokens(propose(drafter, begin(drafter, prompt), size=2)) == [3, 3]
    draft = propose(drafter, begin(drafter, prompt), tail=[57, 58], size=40)
    assert (tokens(draft)[:2], draft.match, draft.origin) == ([59, 60], 4, "sam3")
    # A copy ends with its document.
    end = [*range(70, 90)]
    assert not len(propose(drafter, begin(drafter, end)))
    assert tokens(propose(drafter, begin(drafter, end[:-1]), size=30)) == [89]
    # Where its document ends with the match, a shorter one in the text still counts.
    assert tokens(propose(drafter, begin(drafter, [88, 89, 3, 4, *end]), size=2)) == [3, 4]


def test_a_new_request_leaves_the_corpus_as_it_is() -> None:
    """Spec B3 (d): reset clears only the dynamic automaton."""
    drafter = Sam(static=CORPUS)
    before = {name: array.copy() for name, array in CORPUS.arrays.items()}
    state = begin(drafter, [6, 6, 1, 2])
    drafter._commit(state, [3, 4, 5, 1, 2, 3])
    fresh = begin(drafter, [9, 9])
    assert fresh.text.num_states == 3
    assert fresh.text is not state.text
    assert all((before[name] == array).all() for name, array in CORPUS.arrays.items())


def test_the_next_turn_goes_on_with_the_automaton() -> None:
    drafter = Sam(static=CORPUS)
    old = begin(drafter, [1, 2, 3])
    drafter._commit(old, [4, 5])
    new = begin(drafter, [1, 2, 3, 4, 5, 6, 1, 2], previous=old)
    assert new.text is old.text
    assert tokens(propose(drafter, new, size=3)) == [3, 4, 5]
    other = begin(drafter, [2, 2, 3, 4, 5], previous=old)
    assert other.text is not old.text


def test_one_token_and_end_tokens() -> None:
    assert not len(propose(Sam(), begin(Sam(), [5])))
    state = begin(Sam(), [1, 2, 0, 5, 1, 2], end_ids=[0])
    assert tokens(propose(Sam(), state)) == [0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "policy", [pytest.param(None, marks=pytest.mark.slow), FixedTree(depth=4, nodes=6)]
)
def test_drafted_equals_undrafted(policy) -> None:
    assert check_equality(Sam(), policy) > 50
    assert check_equality(Sam(static=CORPUS, handicap=0, levels=(1, 2)), policy) > 50


def test_copies_are_accepted() -> None:
    [g] = run(stage(counting(), Sam(), window=9), [(0,)], max_new_tokens=100)
    assert g.output == [(i + 1) % 7 for i in range(100)]
    assert g.counters.accepted == g.counters.drafted == g.counters.sources["sam"] > 60
    assert set(g.counters.tallies) <= set(Sam().origins)


@pytest.mark.parametrize(
    "options",
    [{"longest": 0}, {"factor": 0}, {"handicap": -1}, {"levels": ()}, {"levels": (3, 2)}],
)
def test_bad_options_are_refused(options) -> None:
    with pytest.raises(OptionError):
        Sam(**options)
