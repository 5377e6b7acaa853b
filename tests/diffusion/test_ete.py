"""ETE (arXiv 2511.21103): bits of rounds, and uncertain tokens that make others sure."""

from math import ceil, log2

import numpy as np
import pytest
import torch

from outrider.diffusion import Denoising
from outrider.diffusion.rules.explore import Explore
from outrider.diffusion.rules.threshold import Threshold
from outrider.models.denoisers.tabular import Joint, TabularDenoiser
from tests.diffusion.models import PROMPT, PairDenoiser, answered

pytestmark = pytest.mark.method("explore")


def copies(count: int, weights: tuple[float, ...], pairs: int = 1) -> TabularDenoiser:
    """Answers of `pairs` groups; the `count` slots of a group are equal to its first one."""
    tokens = np.arange(len(weights))
    grids = np.stack(np.meshgrid(*[tokens] * pairs, indexing="ij"), -1).reshape(-1, pairs)
    texts = np.repeat(grids, count, axis=1)
    return TabularDenoiser(
        Joint(texts, np.prod(np.array(weights)[grids], axis=1)), vocab_size=len(weights)
    )


@pytest.mark.method("threshold")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_rounds_are_at_least_bits_by_the_most_bits_of_a_round(seed: int, threshold: float) -> None:
    request = answered(Threshold(block=6, threshold=threshold), 18, temperature=0.8, seed=seed)
    trace = request.trace
    assert trace.bits == pytest.approx(sum(-log2(p) for one in trace.rounds for p in one.probs))
    for one in trace.rounds:
        assert one.bits <= one.most_bits(threshold) + 1e-9
        assert (one.probs < threshold).sum() <= 1, "one fallback at most"
    most = max(one.most_bits(threshold) for one in trace.rounds)
    assert len(trace) >= trace.least_rounds() >= 1
    assert len(trace) >= trace.bits / most - 1e-9
    assert trace.least_rounds(most) == ceil(trace.bits / most - 1e-9)
    assert trace.least_rounds(trace.bits) == 1


def test_bits_of_a_round_by_hand() -> None:
    table = torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64)
    model = TabularDenoiser(Joint.of(table), vocab_size=2)
    _, trace = Denoising(model, [], Threshold(), max_new_tokens=2).run()
    assert [one.bits for one in trace.rounds] == pytest.approx([1.0, 0.0])
    assert trace.rounds[0].most_bits(0.9) == pytest.approx(1.0)
    assert trace.rounds[1].most_bits(0.9) == pytest.approx(-log2(0.9))
    assert trace.least_rounds() == 1


@pytest.mark.parametrize("seed", range(5))
def test_without_exploration_and_in_one_block_it_is_the_threshold(seed: int) -> None:
    plain = answered(Threshold(block=4, threshold=0.6), 15, temperature=0.6, seed=seed)
    off = Explore(block=4, threshold=0.6, branches=0, window=1)
    same = answered(off, 15, temperature=0.6, seed=seed)
    assert same.prefix == plain.prefix
    assert [one.slots.tolist() for one in same.trace.rounds] == [
        one.slots.tolist() for one in plain.trace.rounds
    ]
    explored = answered(Explore(block=4, threshold=0.6, window=1), 15, temperature=0.6, seed=seed)
    assert len(explored.trace) < len(plain.trace)


def test_a_round_explores_and_commits_what_became_sure() -> None:
    """Eight equal slots: the first token decides all others, in one round of two forwards."""
    model = copies(8, (0.4, 0.35, 0.25))
    one = Denoising(model, [], Explore(block=8, branches=3), max_new_tokens=8).step()
    assert one.forwards == 2 and one.rows == 8 + 3 * 8
    assert one.tokens.tolist() == [0] * 8
    assert one.probs == pytest.approx([0.4] + [1.0] * 7)
    plain = Denoising(copies(8, (0.4, 0.35, 0.25)), [], Threshold(block=8), max_new_tokens=8)
    assert len(plain.run()[1]) == 2


def test_the_candidate_that_makes_more_tokens_sure_wins() -> None:
    """Token 0 is likelier, and leaves the others open; token 1 decides them all."""
    rest = np.stack(np.meshgrid(*[np.arange(2, 5)] * 4, indexing="ij"), -1).reshape(-1, 4)
    unsure = np.concatenate([np.zeros((len(rest), 1), np.int64), rest], 1)
    texts = np.concatenate([unsure, [[1, 2, 2, 2, 2]]])
    weights = np.array([0.55 / len(rest)] * len(rest) + [0.45])
    model = TabularDenoiser(Joint(texts, weights), vocab_size=5)
    fixed: dict[str, float | int] = {"block": 5, "branches": 2, "mass": 0.9}
    gained = Denoising(model, [], Explore(gain=0.1, **fixed), max_new_tokens=5).step()
    assert gained.tokens.tolist() == [1, 2, 2, 2, 2] and gained.forwards == 2
    likely = Denoising(model, [], Explore(gain=0.01, **fixed), max_new_tokens=5).step()
    assert likely.tokens.tolist() == [0]
    floor = Denoising(model, [], Explore(floor=0.5, **fixed), max_new_tokens=5).step()
    assert floor.tokens.tolist() == [0] and floor.forwards == 1


def test_fewer_rounds_and_more_rows_than_the_threshold() -> None:
    weights = (0.4, 0.35, 0.25)
    runs = {}
    for rule in (Threshold(block=8), Explore(block=8, window=1, branches=3)):
        model = copies(4, weights, pairs=4)
        runs[rule.name] = Denoising(model, [], rule, max_new_tokens=16).run()[1]
    assert len(runs["explore"]) < len(runs["threshold"])
    assert runs["explore"].rows > runs["threshold"].rows


def test_sure_tokens_are_exploited_in_the_next_block_too() -> None:
    texts = np.array([[a, b, 2, 2] for a in (0, 1) for b in (0, 1)])
    model = TabularDenoiser(Joint(texts, np.array([0.3, 0.25, 0.25, 0.2])), vocab_size=3)
    one = Denoising(model, [], Explore(block=2, window=2), max_new_tokens=4).step()
    assert one.slots.tolist() == [2, 3] and one.forwards == 1
    narrow = Denoising(model, [], Explore(block=2, window=1), max_new_tokens=4).step()
    assert set(narrow.slots.tolist()) <= {0, 1}


def test_one_branch_needs_no_second_forward() -> None:
    model = PairDenoiser()
    rule = Explore(block=4, threshold=0.99, branches=1, mass=0.0)
    _, trace = Denoising(model, PROMPT, rule, max_new_tokens=12).run()
    assert {one.forwards for one in trace.rounds} == {1} and model.forwards == len(trace)


def test_where_the_best_tokens_have_little_mass_the_surest_token_is_committed() -> None:
    rule = Explore(block=4, threshold=0.99, branches=2, mass=0.999, window=1)
    request = answered(rule)
    assert {one.forwards for one in request.trace.rounds} == {1}
    assert request.prefix == answered(Threshold(block=4, threshold=0.99)).prefix


@pytest.mark.parametrize("cache", ["prefix", "dual", "delayed", "prompt"])
def test_branches_read_stored_rows(cache: str) -> None:
    """The model has one layer in effect, so caches change nothing; whole branches would cost
    more."""
    more: dict[str, float | int] = {"block": 8, "threshold": 0.97, "mass": 0.0, "floor": 0.0}
    runs = [answered(Explore(cache=name, **more), 16) for name in ("none", cache)]
    assert runs[1].prefix == runs[0].prefix
    assert runs[1].trace.rows < runs[0].trace.rows
    assert max(one.forwards for one in runs[1].trace.rounds) == 2
