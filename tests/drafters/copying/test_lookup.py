"""Prompt lookup: against a brute-force twin, and what it costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError, StrategyError
from outrider.core.types import NO_IDS, Budget, Draft, Prompt, as_ids
from outrider.drafters import Lookup, ModelDrafter, Qualified
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from tests.exactness.setups.rigs import run, stage

pytestmark = pytest.mark.method("lookup")

TOKENS = st.lists(st.integers(0, 3), max_size=30)


def begin(drafter: Lookup, prompt: list[int], *, previous=None, end_ids=()):
    request = Request(
        Prompt(token_ids=tuple(prompt)), Sampler(SamplingParams(), end_ids=tuple(end_ids))
    )
    [state] = drafter.begin([request], previous)
    return state


def tables(state) -> dict[int, dict[int, int]]:
    return state.index.tables


def propose(drafter: Lookup, state, tail=(), size: int = 6) -> Draft:
    [draft] = drafter.propose([state], [as_ids(tail)], [Budget.chain(size)])
    return draft


def twin(drafter: Lookup, text: list[int], tail: list[int], size: int) -> tuple[list[int], int]:
    """The draft and the length of its match, by looking at every place of the text."""
    whole = text + tail
    for n in range(drafter.max_ngram, drafter.min_ngram - 1, -1):
        places = [
            p
            for p in range(n, len(text))
            if len(whole) >= n and text[p - n : p] == whole[len(whole) - n :]
        ]
        if places and size:
            place = places[0] if drafter.occurrence == "first" else places[-1]
            for _ in range(size):
                whole.append(whole[place])  # copies what it has just copied, past the end
                place += 1
            return whole[-size:], n
    return [], 0


@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    commits=st.lists(TOKENS, max_size=4),
    tail=st.lists(st.integers(0, 3), max_size=5),
    low=st.integers(1, 3),
    more=st.integers(0, 3),
    occurrence=st.sampled_from(["latest", "first"]),
    size=st.integers(0, 9),
)
def test_equals_its_brute_force_twin(prompt, commits, tail, low, more, occurrence, size) -> None:
    drafter = Lookup(min_ngram=low, max_ngram=low + more, occurrence=occurrence)
    state = begin(drafter, prompt)
    text = list(prompt)
    for tokens in commits:
        drafter.commit([state], [as_ids(tokens)])
        text += tokens
    expected, n = twin(drafter, text, list(tail), size)
    draft = propose(drafter, state, tail, size)
    assert draft.tokens.tolist() == expected
    assert draft.origin == (f"lookup{n}" if expected else "")
    assert draft.sources == ("lookup",) * len(expected)
    assert draft.match == n
    assert tables(state) == tables(begin(drafter, text)), "grown step by step or at once"


def test_longest_match_then_latest_or_first() -> None:
    text = [1, 2, 9, 9, 1, 2, 8, 7, 3, 1, 2]
    assert propose(Lookup(), begin(Lookup(), text), size=3).tokens.tolist() == [8, 7, 3]
    first = Lookup(occurrence="first")
    assert propose(first, begin(first, text), size=3).tokens.tolist() == [9, 9, 1]
    longer = [3, 1, 2, 5, 5, *text]
    assert propose(Lookup(), begin(Lookup(), longer), size=2).tokens.tolist() == [5, 5]


@given(text=st.lists(st.integers(0, 2), min_size=1, max_size=60))
def test_strict_mode_drafts_nothing_or_ten_tokens(text: list[int]) -> None:
    """Spec B1 (d): as published, by sliding over all windows; the suffix never finds itself."""
    expected: list[int] = []
    for n in (3, 2, 1):
        windows = [
            p
            for p in range(n, len(text) - 9)
            if len(text) >= n and text[p - n : p] == text[len(text) - n :]
        ]
        if windows:
            expected = text[windows[0] : windows[0] + 10]
            break
    strict = Lookup(max_ngram=3, min_ngram=1, occurrence="first", behind=10)
    draft = propose(strict, begin(strict, text), size=10)
    assert draft.tokens.tolist() == expected
    assert len(draft) in (0, 10)


def test_a_loop_is_proposed_at_full_length() -> None:
    state = begin(Lookup(), [7, 1, 2, 3, 1, 2, 3])
    assert propose(Lookup(), state, size=8).tokens.tolist() == [1, 2, 3, 1, 2, 3, 1, 2]


def test_the_end_of_the_text_does_not_find_itself() -> None:
    state = begin(Lookup(min_ngram=1), [1, 2, 3])
    assert not len(propose(Lookup(min_ngram=1), state))


def test_a_tail_is_read_but_not_learned() -> None:
    drafter = Lookup()
    state = begin(drafter, [1, 2, 3, 4])
    before = {n: dict(table) for n, table in tables(state).items()}
    assert propose(drafter, state, tail=[1, 2], size=2).tokens.tolist() == [3, 4]
    assert not len(propose(drafter, state, tail=[6, 5, 6, 5]))
    assert tables(state) == before
    drafter.commit([state], [as_ids([1, 2])])
    assert propose(drafter, state, size=2).tokens.tolist() == [3, 4]


def test_nothing_after_an_end_token() -> None:
    state = begin(Lookup(), [1, 2, 3, 0, 5, 1, 2], end_ids=[0])
    assert propose(Lookup(), state).tokens.tolist() == [3, 0]


def test_shares_decide_by_the_length_of_the_match() -> None:
    drafter = Lookup(min_ngram=1, max_ngram=3)
    budget = Budget(depth=5, nodes=5, shares={"lookup2": 0, "lookup3": 2})

    def size(prompt: list[int]) -> int:
        [draft] = drafter.propose([begin(drafter, prompt)], [NO_IDS], [budget])
        return len(draft)

    assert [size([4, 5, 6, 7, *end]) for end in ([4], [4, 5], [4, 5, 6])] == [5, 0, 2]


def test_the_next_turn_is_added_to_the_index() -> None:
    drafter = Lookup()
    old = begin(drafter, [1, 2, 3])
    drafter.commit([old], [as_ids([4, 5])])
    after = begin(drafter, [1, 2, 3, 4, 5, 6, 1, 2], previous=[old])
    assert after.index is old.index
    assert tables(after) == tables(begin(drafter, [1, 2, 3, 4, 5, 6, 1, 2]))
    other = begin(drafter, [2, 2, 3, 4, 5], previous=[old])
    assert tables(other) == tables(begin(drafter, [2, 2, 3, 4, 5]))


def test_copies_are_accepted() -> None:
    """A target that counts in circles: everything after the first turn is a copy."""
    import torch

    table = torch.full((7, 7), -20.0, dtype=torch.float64)
    for i in range(7):
        table[i, (i + 1) % 7] = 20.0
    target = TabularModel(table)
    [g] = run(stage(target, Lookup(), window=9), [(0,)], max_new_tokens=100)
    assert g.output == [(i + 1) % 7 for i in range(100)]
    assert g.counters.accepted == g.counters.drafted == g.counters.sources["lookup"]
    assert g.counters.rounds < 25
    assert set(g.counters.tallies) <= set(Lookup().origins)


def test_rules_that_need_a_reference_are_refused() -> None:
    from outrider.acceptance import Fuzzy, Rejection

    target = TabularModel.random(vocab_size=7, order=2, seed=0)
    with pytest.raises(StrategyError, match="logits"):
        Strategy(target=target, drafter=Lookup(), rule=Fuzzy("js", 0.1))
    inner = Qualified(drafter=Lookup(), qualifier=target, policy=FixedLength(2))
    assert Strategy(target=target, drafter=inner, rule=Fuzzy("js", 0.1)).exactness == "lossy"
    assert Strategy(target=target, drafter=Lookup(), rule=Rejection()).exactness == "distribution"


@pytest.mark.parametrize(
    "options",
    [{"min_ngram": 0}, {"min_ngram": 4, "max_ngram": 3}, {"occurrence": "newest"}, {"behind": 0}],
)
def test_bad_options_are_refused(options) -> None:
    with pytest.raises(OptionError):
        Lookup(**options)


def test_names_must_differ() -> None:
    from outrider.drafters import Fallback

    model = TabularModel.random(vocab_size=7, order=2, seed=0)
    with pytest.raises(StrategyError, match="lookup"):
        Fallback(first=Lookup(), second=Lookup(min_ngram=1))
    both = Fallback(first=Lookup(), second=ModelDrafter(model=model))
    assert both.name == "lookup+draft"
