"""Successors: measured chances, chains that end where a token does not pay, earlier answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.types import GRAMMAR, Budget, Prompt, Worth, as_ids
from outrider.drafters.copying.successors import Successors, _needed
from outrider.memories.chances import STREAKS
from outrider.memories.followers import Followers
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.walk import Walk
from tests.constraints.automaton import SPELLED, Automaton
from tests.drafters.copying.copy_rigs import begin, check_equality, counting, propose, tokens
from tests.exactness.setups.rigs import run, stage

pytestmark = pytest.mark.method("successors")

TEMPERATURES = st.sampled_from((0.0, 0.8))
texts = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def best(
    drafter: Successors, state: Any, text: list[int], further: int
) -> tuple[int, float] | None:
    """The likeliest candidate after a text with `further` drafted tokens, and its chance."""
    found = drafter._place(state, text, state.streak + further).best
    return None if found is None else (found.token, found.chance)


@given(
    prompt=texts,
    output=texts,
    tail=st.lists(st.integers(0, 3), max_size=3),
    floors=st.lists(st.floats(0.0, 1.0), max_size=6),
    least=st.sampled_from((0.0, 0.0, 0.3)),
)
def test_the_chain_with_the_largest_gain_is_drafted(
    prompt: list[int], output: list[int], tail: list[int], floors: list[float], least: float
) -> None:
    drafter = Successors(together=1)
    state = begin(drafter, prompt)
    drafter.commit([state], [as_ids(output)])
    worth = Worth(floors=tuple(floors), least=least)
    budget = Budget(depth=8, nodes=8, worth=worth)
    [draft] = drafter.propose([state], [as_ids(tail)], [budget])
    chain, chances, text = [], [], [*prompt, *output, *tail]
    while len(chain) < len(floors) and (found := best(drafter, state, text, len(chain))):
        chain.append(found[0])
        chances.append(found[1] * (chances[-1] if chances else 1.0))
        text.append(found[0])
    gains = [sum(chances[:k]) - sum(floors[:k]) for k in range(len(chain) + 1)]
    size = len(draft)
    assert tokens(draft) == chain[:size]
    if size:
        assert gains[size] >= max(least, max(gains) - 1e-9)
    elif chances and chances[0] >= _needed(floors, least):
        assert max(gains[1:], default=-1.0) < max(least, 0.0) + 1e-9


@given(prompt=texts, output=texts, together=st.integers(1, 9), temperature=TEMPERATURES)
def test_chances_are_counted_for_all_candidates_drafted_or_not(
    prompt: list[int], output: list[int], together: int, temperature: float
) -> None:
    drafter, other = Successors(together=together), Successors()
    state = begin(drafter, prompt, temperature=temperature)
    for token in output:
        propose(drafter, state, size=2)
        drafter.commit([state], [as_ids([token])])
    drafter._learn(state)
    fresh = Successors().chances[False, False, False]
    hits, trials = list(fresh.hits), list(fresh.trials)
    best_hits, best_trials = list(fresh.best_hits), list(fresh.best_trials)
    streak = 0
    for i, token in enumerate(output):
        before = begin(other, [*prompt, *output[:i]])
        found = other._place(before, before.text, 0).found
        if found:
            best_token, kind = max(found, key=lambda one: hits[one[1]] / trials[one[1]])
            place = 2 * kind + (len({one for one, _ in found}) == 1)
            place = place * len(STREAKS) + max(k for k, n in enumerate(STREAKS) if streak >= n)
            best_hits[place] += best_token == token
            best_trials[place] += 1
        streak = streak + 1 if found and found[0][0] == token else 0
        for one, kind in found:
            trials[kind] += 1
            hits[kind] += one == token
    assert state.streak == streak
    counted = drafter.chances[temperature > 0, False, False]
    assert counted.trials == trials and counted.best_trials == best_trials
    assert counted.hits == pytest.approx(hits) and counted.best_hits == pytest.approx(best_hits)


def test_greedy_and_sampled_texts_have_their_own_chances() -> None:
    drafter = Successors(own=1, shared=0, least=0.5)
    state = begin(drafter, [0])
    drafter.commit([state], [as_ids([1, 2, 3] * 60)])
    sampled = begin(drafter, [0, 1, 2, 3, 1], temperature=0.8)
    assert tokens(propose(drafter, sampled, size=1)) == []
    greedy = begin(drafter, [0, 1, 2, 3, 1])
    assert tokens(propose(drafter, greedy, size=1)) == [2]


def test_a_conversation_that_changes_its_temperature_changes_its_chances() -> None:
    drafter = Successors()
    state = begin(drafter, [1, 2])
    again = begin(drafter, [1, 2, 3], previous=state, temperature=0.8)
    assert again is state and again.chances is drafter.chances[True, False, False]


def test_a_prompt_that_begins_often_is_learned_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts after one prompt know the same of it, and nothing of each other."""
    learned: list[list[int]] = []
    real = Followers.learn

    def learn(self: Followers, text: Sequence[int], start: int) -> None:
        if len(text) > max(start, 1):
            learned.append(list(text))
        real(self, text, start)

    monkeypatch.setattr(Followers, "learn", learn)
    drafter, prompt = Successors(shared=0), [1, 2, 3, 1, 2]
    states = [begin(drafter, prompt) for _ in range(4)]
    assert learned == [prompt] * 2
    assert all(state.own == states[0].own for state in states)
    drafter.commit(states[3:], [as_ids([9, 8, 9, 8] * 4)])
    assert states[3].own != states[2].own == states[0].own
    assert begin(drafter, prompt).own == states[0].own
    other = begin(drafter, [5, 6, 5])
    assert learned[2:] == [[5, 6, 5]] and other.own != states[0].own
    assert begin(drafter, prompt).own == states[0].own, "another prompt came between"
    assert len(learned) == 4


def test_penalties_have_their_own_chances() -> None:
    """They make repeats rarer, of which most drafts are."""
    drafter = Successors()
    sampler = Sampler(SamplingParams(repetition_penalty=1.3))
    [edited] = drafter.begin([Request(Prompt(token_ids=(1, 2)), sampler)])
    assert edited.chances is drafter.chances[False, False, True]
    assert begin(drafter, [1, 2]).chances is drafter.chances[False, False, False]


@given(prompt=texts, output=texts, together=st.integers(2, 9))
def test_tokens_that_are_learned_together_leave_the_same_memory(
    prompt: list[int], output: list[int], together: int
) -> None:
    eager, late = Successors(together=1), Successors(together=together)
    one, other = begin(eager, prompt), begin(late, prompt)
    for token in output:
        eager.commit([one], [as_ids([token])])
        late.commit([other], [as_ids([token])])
        assert len(other.text) - other.learned < together
    late._learn(other)
    assert other.chances == one.chances and other.own == one.own
    assert other.place == one.place and other.streak == one.streak


def test_measured_chances_replace_the_prior() -> None:
    """A pair that is always followed by the same token gets a long chain, another none."""
    drafter = Successors(own=1, shared=0, least=0.5)
    state = begin(drafter, [0])
    drafter.commit([state], [as_ids([1, 2, 3] * 60)])
    assert tokens(propose(drafter, state, size=5)) == [1, 2, 3, 1, 2]
    other = Successors(own=1, shared=0, least=0.5)
    state = begin(other, [0])
    changing = [token for i in range(90) for token in (1, 2 + i % 7)]
    other.commit([state], [as_ids(changing)])
    assert tokens(propose(other, state, tail=[1], size=5)) == []


def test_earlier_answers_are_known_to_the_next_request() -> None:
    drafter = Successors(least=0.0)
    first = begin(drafter, [1])
    drafter.commit([first], [as_ids([2, 3, 4, 5])])
    assert len(drafter.memory) == 0  # its own memory knows them already
    second = begin(drafter, [9, 2])
    assert tokens(propose(drafter, second, size=3)) == [3, 4, 5]
    alone = Successors(least=0.0, shared=0)
    begin(alone, [1])
    alone.commit([first], [as_ids([2, 3, 4, 5])])
    assert tokens(propose(alone, begin(alone, [9, 2]), size=3)) == []


def test_prompts_are_not_shared() -> None:
    drafter = Successors(least=0.0)
    first = begin(drafter, [1, 2, 3])
    drafter.commit([first], [as_ids([7])])
    assert tokens(propose(drafter, begin(drafter, [5, 2]), size=3)) == []


def test_a_tail_is_read_and_not_learned() -> None:
    drafter = Successors(least=0.0)
    state = begin(drafter, [1, 2, 3, 1])
    before = list(state.chances.best_trials), len(state.own), list(state.text)
    assert tokens(propose(drafter, state, tail=[2], size=2)) == [3, 1]
    assert (list(state.chances.best_trials), len(state.own), list(state.text)) == before


def test_a_conversation_goes_on_with_its_state() -> None:
    drafter = Successors(least=0.0)
    state = begin(drafter, [1, 2])
    drafter.commit([state], [as_ids([3, 4])])
    again = begin(drafter, [1, 2, 3, 4, 9, 1], previous=state)
    assert again is state
    assert tokens(propose(drafter, again, size=3)) == [2, 3, 4]


def test_only_the_end_of_a_long_text_is_learned() -> None:
    drafter = Successors(least=0.0, max_tokens=4)
    state = begin(drafter, [1, 2, 3, 4, 5, 6, 7, 1])
    assert tokens(propose(drafter, state, size=2)) == []
    assert tokens(propose(drafter, state, tail=[6], size=2)) == [7, 1]


def constrained(
    drafter: Successors, prompt: list[int], grammar: Automaton, previous: Any = None
) -> Any:
    """Begin with a request whose answer follows a grammar."""
    sampler = Sampler(SamplingParams(seed=1), end_ids=(0,), walk=Walk(grammar.begin()))
    request = Request(Prompt(token_ids=tuple(prompt)), sampler)
    [state] = drafter.begin([request], None if previous is None else [previous])
    return state


GATED = Automaton(
    {0: {1: 1, 2: 1}, 1: {3: 2}, 2: {4: 3}, 3: {5: 4, 6: 4}, 4: {1: 5}, 5: {2: 6}},
    frozenset((6,)),
)
"""After a choice, tokens 3 and 4 are forced; after another one, tokens 1 and 2."""


def test_with_a_grammar_the_chain_goes_on_behind_forced_tokens() -> None:
    """They cost rows and gain nothing themselves, so that none ends the chain."""
    drafter = Successors(own=1, shared=0, least=0.0)
    state = constrained(drafter, [4, 5, 6, 1, 4, 5, 6, 1, 4, 5, 6], GATED)
    [draft] = drafter.propose([state], [as_ids(())], [Budget.chain(8)])
    assert tokens(draft) == [1, 3, 4, 5]
    assert draft.sources == ("successors", GRAMMAR, GRAMMAR, "successors")
    free = begin(drafter, [4, 5, 6, 1, 4, 5, 6, 1, 4, 5, 6])
    assert tokens(propose(drafter, free, size=4)) == [1, 4, 5, 6]


def test_forced_tokens_that_cost_more_than_what_follows_gains_end_the_chain() -> None:
    drafter = Successors(own=1, shared=0)
    state = constrained(drafter, [4, 5, 6, 1, 4, 5, 6, 1, 4, 5, 6], GATED)
    for floor, chain in ((0.05, [1, 3, 4, 5]), (0.3, [1])):
        budget = Budget(depth=8, nodes=8, worth=Worth(floors=(0.01, floor, floor, floor)))
        [draft] = drafter.propose([state], [as_ids(())], [budget])
        assert tokens(draft) == chain


def test_followers_that_the_grammar_forbids_are_left_out() -> None:
    drafter = Successors(own=2, shared=0, least=0.0)
    either = Automaton({0: {3: 1, 4: 1, 5: 1}, 1: {}}, frozenset((1,)))
    prompt = [1, 2, 6, 2, 4, 1, 2]
    assert tokens(propose(drafter, begin(drafter, prompt), size=1)) == [6]
    state = constrained(drafter, prompt, either)
    [draft] = drafter.propose([state], [as_ids(())], [Budget.chain(3)])
    assert tokens(draft) == [4]
    state = constrained(drafter, [4, 0, 4, 0], either)
    drafter.commit([state], [as_ids([4])])
    [draft] = drafter.propose([state], [as_ids(())], [Budget.chain(3)])
    assert tokens(draft) == [0]  # the text may end here


@given(prompt=texts, choices=st.lists(st.integers(0, 5), max_size=30), together=st.integers(1, 9))
def test_with_a_grammar_drafts_follow_it_and_forced_tokens_are_not_counted(
    prompt: list[int], choices: list[int], together: int
) -> None:
    eager = Successors(together=1, least=0.0)
    late = Successors(together=together, least=0.0)
    one, other = constrained(eager, prompt, SPELLED), constrained(late, prompt, SPELLED)
    matcher, written, free = SPELLED.begin(), list[int](), 0
    for choice in choices:
        allowed = np.flatnonzero(matcher.allowed()).tolist()
        if not allowed:
            break
        free += not matcher.forced()
        written.append(allowed[choice % len(allowed)])
        assert matcher.advance(written[-1:]) == 1
        for drafter, state in ((eager, one), (late, other)):
            drafter.commit([state], [as_ids(written[-1:])])
        [draft] = eager.propose([one], [as_ids(())], [Budget.chain(6)])
        chain = [token for token in tokens(draft) if token != 0]
        assert matcher.admits(chain) == len(chain)
        assert not len(draft) or draft.sources[-1] == "successors"
    late._learn(other)
    assert other.chances == one.chances and other.own == one.own and other.place == one.place
    tested = sum(one.chances.best_trials) - sum(
        Successors().chances[False, True, False].best_trials
    )
    assert tested <= free


def test_ends_are_the_last_token() -> None:
    drafter = Successors(least=0.0)
    state = begin(drafter, [1, 2, 0, 3, 1], end_ids=(0,))
    assert tokens(propose(drafter, state, size=4)) == [2, 0]


def test_equals_undrafted_text_and_drafts() -> None:
    assert check_equality(Successors(least=0.0)) > 0


def test_a_text_that_repeats_is_copied() -> None:
    model = counting()
    results = run(stage(model, Successors()), [[0, 1, 2]])
    assert results[0].counters.rounds < 20


@pytest.mark.parametrize(
    "options", [{"own": 0}, {"shared": -1}, {"least": 1.5}, {"max_tokens": 0}, {"together": 0}]
)
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(OptionError):
        Successors(**options)
