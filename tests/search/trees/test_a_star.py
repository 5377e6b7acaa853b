"""A*-Decoding: best-first search over steps."""

import itertools
import zlib
from collections.abc import Callable

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.drafters import NoDrafter
from outrider.models.tabular import TabularModel
from outrider.search import Limits
from outrider.search.scorers.scorer import ScorerError
from outrider.search.trees.a_star import AStar, Found, State
from outrider.testing.rigs import finish, generation, stage, tabular_family
from outrider.testing.rigs import undrafted as plain
from outrider.testing.searches import END, LENGTH, Counted, LetterCodec, searched, task

pytestmark = pytest.mark.method("a-star")

MODEL = tabular_family(seed=1).target
PROMPT = (1, 2, 3)


def noise(text: str) -> float:
    """A reward from 0 to 1 that no text can be guessed from."""
    return zlib.crc32(text.encode()) / 2**32


def explored(search: AStar, scorer: Callable[[str], float] = noise, **more) -> Found:
    own = task(MODEL, PROMPT, **{"scorer": scorer, "temperature": 1.2, **more})
    return search.explored(own)


def sampled(temperature: float) -> tuple[int, ...]:
    """The first sample of the prompt, written without any search."""
    alone = generation(PROMPT, end_ids=(END,), temperature=temperature, max_new_tokens=LENGTH)
    finish(plain(stage(MODEL, NoDrafter())), [alone])
    return tuple(alone.output)


@pytest.mark.parametrize("seed", range(4))
def test_f_of_the_states_that_are_continued_never_falls(seed: int) -> None:
    search = AStar(children=3, step_tokens=2, nodes=40)
    popped = explored(search, seed=seed, ignore_eos=True).popped
    assert len(popped) > 5
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(popped))


def test_with_the_other_cost_f_may_fall() -> None:
    falls = 0
    for seed in range(4):
        popped = explored(AStar(children=3, step_tokens=2, nodes=40, cost="rise"), seed=seed).popped
        falls += sum(a > b + 1e-9 for a, b in itertools.pairwise(popped))
    assert falls > 0


def path_of(output: tuple[int, ...], found: Found) -> list[float]:
    """The rewards of the states on the way to a state, the empty text first."""
    steps = [s for s in found.states if output[: len(s.output)] == s.output]
    return [1.0, *(s.reward for s in sorted(steps, key=lambda s: s.steps))]


@pytest.mark.parametrize("cost", ["fall", "rise"])
def test_f_is_the_sum_of_the_costs_and_the_heuristic(cost: str) -> None:
    found = explored(AStar(children=3, step_tokens=2, nodes=40, cost=cost))
    for state in found.states:
        rewards = path_of(state.output, found)
        assert len(rewards) == state.steps + 1
        losses = sum(max(0.0, a - b) for a, b in itertools.pairwise(rewards))
        gains = sum(max(0.0, b - a) for a, b in itertools.pairwise(rewards))
        spent = gains if cost == "fall" else losses
        assert state.spent == pytest.approx(spent)
        assert state.total == pytest.approx(spent + 1 - rewards[-1])
        if cost == "fall":
            assert state.total == pytest.approx(losses)


@pytest.mark.parametrize("nodes", [1, 7, 40])
def test_one_scorer_call_for_each_state_and_no_more_than_the_budget(nodes: int) -> None:
    counted = Counted()
    found = explored(AStar(children=3, step_tokens=1, nodes=nodes), counted)  # type: ignore[arg-type]
    assert counted.texts == found.task.account.scorer_calls == len(found.states) <= nodes
    texts = [(state.output, state.finish) for state in found.states]
    assert len(set(texts)) == len(texts)


def test_the_budget_is_used_up_where_nothing_ends() -> None:
    found = explored(AStar(children=3, step_tokens=1, nodes=17), ignore_eos=True)
    assert len(found.states) == 17
    assert all(one.finish_reason != "stop" for one in found.candidates())


@pytest.mark.parametrize("drafted", [False, True])
def test_one_child_is_plain_sampling(drafted: bool) -> None:
    given = {"drafted": drafted, "temperature": 1.2, "scorer": noise}
    found = searched(AStar(children=1, step_tokens=2), MODEL, PROMPT, **given)
    assert found.best.token_ids == sampled(1.2)


def test_the_temperature_of_the_paper_s_setting_is_the_default() -> None:
    found = searched(AStar(children=1, step_tokens=3), MODEL, PROMPT, scorer=noise)
    assert found.best.token_ids == sampled(0.8)


def test_a_constant_scorer_goes_deeper_first_and_returns_a_plain_sample() -> None:
    found = explored(AStar(children=3, step_tokens=1, nodes=64), lambda text: 0.5)
    steps = [round(f, 9) for f in found.popped]
    assert len(found.popped) == len(sampled(1.2)) + 1 and set(steps[1:]) == {0.5}
    assert found.candidates()[0].token_ids == sampled(1.2)


def test_of_equal_sums_the_larger_reward_comes_first_and_then_the_longer_text() -> None:
    states = [
        State(reward=0.5, spent=0.0, steps=3),
        State(reward=1.0, spent=0.5, steps=1),
        State(reward=1.0, spent=0.5, steps=2),
        State(reward=0.9, spent=0.0),
    ]
    assert [states.index(one) for one in sorted(states, key=lambda one: one.key)] == [3, 2, 1, 0]


LEVELS = 4
TOY = TabularModel(torch.tensor([[-50.0, 0.0, 0.0]] * 3, dtype=torch.float64))


def best_leaf() -> tuple[float, str]:
    """The smallest sum of losses of all 16 texts, and its text."""
    found = []
    for letters in itertools.product("bc", repeat=LEVELS):
        text = "".join(letters)
        rewards = [1.0, *(noise(text[: i + 1]) for i in range(LEVELS))]
        losses = sum(max(0.0, a - b) for a, b in itertools.pairwise(rewards))
        found.append((losses, text))
    return min(found)


def test_the_best_text_of_a_toy_tree_is_found() -> None:
    losses, text = best_leaf()
    search = AStar(children=12, step_tokens=1, nodes=200)
    given = {"temperature": 1.0, "forced_tokens": {LEVELS: END}, "scorer": noise}
    own = task(TOY, (1,), **given)
    found = search.explored(own)
    inner = {s.output for s in found.states if s.steps < LEVELS}
    made = [s.output for s in found.states if 1 < s.steps <= LEVELS]
    assert made and all(output[:-1] in inner for output in made)
    best = found.candidates()[0]
    assert (best.text, best.finish_reason) == (text, "stop")
    assert best.score == pytest.approx(-losses)
    assert len(found.states) < 2 + 4 + 8 + 16 + 16, "not everything was looked at"


def test_steps_end_at_the_delimiter() -> None:
    found = explored(AStar(children=3, delimiter="c", nodes=20))
    text = LetterCodec().decode
    unfinished = [s for s in found.states if s.finish == "unfinished"]
    assert unfinished
    for state in unfinished:
        assert text(state.output).endswith("c")
        assert text(state.output).count("c") == state.steps


def test_a_text_cut_at_the_limit_is_no_result_where_one_ends() -> None:
    found = searched(
        AStar(children=4, step_tokens=4, nodes=64), MODEL, PROMPT, temperature=1.5, scorer=noise
    )
    assert {one.finish_reason for one in found.candidates} == {"stop"}


def test_without_a_finished_text_the_best_reward_is_first() -> None:
    found = searched(
        AStar(step_tokens=2, nodes=9), MODEL, PROMPT, temperature=1.5, scorer=noise, ignore_eos=True
    )
    rewards = [noise(one.text) for one in found.candidates]
    assert rewards == sorted(rewards, reverse=True)
    assert [one.score for one in found.candidates] == pytest.approx(rewards)


def test_most_steps_ends_a_path() -> None:
    found = explored(AStar(children=2, step_tokens=1, most_steps=3), ignore_eos=True)
    assert max(state.steps for state in found.states) == 3
    assert len(found.states) <= 2 + 4 + 8


@pytest.mark.parametrize("reward", [1.5, -0.2, float("inf")])
def test_a_reward_outside_0_and_1_is_an_error(reward: float) -> None:
    with pytest.raises(ScorerError, match="from 0 to 1"):
        explored(AStar(), lambda text: reward)


@pytest.mark.parametrize(
    "options", [{"cost": "other"}, {"delimiter": ""}, {"nodes": 0}, {"children": 0}, {"width": 0}]
)
def test_options_are_checked(options) -> None:
    with pytest.raises(OptionError):
        AStar(**options)


def test_the_caches_of_states_that_wait_count_as_rows() -> None:
    own = AStar(delimiter="c", step_tokens=2, nodes=24)
    whole = searched(own, MODEL, PROMPT, temperature=2.0, scorer=Counted(), ignore_eos=True)
    written = 4 * (len(PROMPT) + LENGTH)  # most that four steps can hold by themselves
    assert whole.cache_rows > written
    limits = Limits(rows=written)
    found = searched(
        own, MODEL, PROMPT, temperature=2.0, scorer=Counted(), ignore_eos=True, limits=limits
    )
    assert f"limit of {written} rows" in found.stopped and found.candidates
