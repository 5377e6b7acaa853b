"""Fast-dLLM (arXiv 2505.22618): the threshold, the factor, and caches of blocks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.diffusion import Denoising, Drawing
from outrider.diffusion.proposals import Proposals
from outrider.diffusion.rule import View, blocks_of
from outrider.diffusion.rules.factor import Factor
from outrider.diffusion.rules.low_confidence import LowConfidence
from outrider.diffusion.rules.threshold import Threshold
from outrider.models.denoisers.loading import load_denoiser
from outrider.models.denoisers.runner import MaskedDenoiser
from outrider.models.denoisers.tabular import Joint, TabularDenoiser
from outrider.protocols.denoiser import Reading
from tests.diffusion.models import PROMPT, PairDenoiser, answered
from tests.models.denoisers.reference import OWN, written

CACHES = ("prefix", "dual")


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> dict[int, MaskedDenoiser]:
    """Random models of one and of two layers, in float64."""
    found = {}
    for layers in (1, 2):
        config = {**OWN, "num_hidden_layers": layers}
        folder: Path = written(tmp_path_factory.mktemp(f"layers-{layers}"), config, seed=layers)
        found[layers] = load_denoiser(folder, dtype="float64")
    return found


@pytest.mark.method("threshold")
def test_sure_marginals_are_the_argmax_of_the_joint() -> None:
    """The theorem: c_i > 1 - e for all n marginals and (n + 1) e <= 1. 3000 random joints."""
    random = np.random.default_rng(0)
    applied = 0
    for _ in range(3000):
        n, vocab = int(random.integers(2, 5)), int(random.integers(2, 4))
        joint = random.dirichlet(np.full(vocab**n, 0.02 + 0.1 * random.random()))
        if random.random() < 0.7:  # one text has most of the mass
            joint *= random.uniform(0.0, 0.6)
            joint[random.integers(len(joint))] += 1.0 - joint.sum()
        joint = joint.reshape([vocab] * n)
        marginals = [joint.sum(tuple(set(range(n)) - {axis})) for axis in range(n)]
        doubt = 1.0 - min(one.max() for one in marginals)
        if (n + 1) * doubt < 1.0 - 1e-9:
            applied += 1
            best = np.unravel_index(joint.argmax(), joint.shape)
            assert tuple(int(one.argmax()) for one in marginals) == tuple(map(int, best))
    assert applied > 500


@pytest.mark.method("factor")
def test_the_factor_of_one_commits_the_argmax_of_the_joint() -> None:
    """The first round commits a set of slots whose best tokens are the best ones together."""
    several = 0
    for seed in range(60):
        model = TabularDenoiser.random(vocab_size=3, length=4, scale=3.5, seed=seed)
        request = Denoising(model, [], Factor(factor=1.0), max_new_tokens=4)
        one = request.step()
        joint = model._joint
        table = np.zeros([3] * 4)
        np.add.at(table, tuple(joint.texts.T), joint.weights)
        others = tuple(set(range(4)) - set(one.slots.tolist()))
        together = table.sum(others) if others else table
        best = np.unravel_index(together.argmax(), together.shape)
        order = np.argsort(one.slots)
        assert one.tokens[order].tolist() == list(map(int, best))
        several += len(one.slots) > 1
    assert several >= 10


@pytest.mark.method("factor")
@given(doubts=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), factor=st.floats(0.0, 3.0))
def test_the_factor_commits_the_largest_number_that_fits(
    doubts: list[float], factor: float
) -> None:
    n = len(doubts)
    found = Proposals.of(torch.zeros(n, 3), np.arange(n), Drawing(), 0)
    found.confident = 1.0 - np.array(doubts)
    [block] = blocks_of(n, None)
    view = View(
        proposals=found,
        block=block,
        visit=0,
        number=0,
        open_slots=n,
        allows=lambda slot, token: True,
        commit=lambda slot, token, logprob: None,
        branches=lambda slot, tokens: [],
    )
    chosen = Factor(factor=factor).begin([block]).choose(view)
    ranked = sorted(1.0 - found.confident)
    fits = [k for k in range(1, n + 1) if (k + 1) * ranked[k - 1] < factor]
    assert len(chosen) == max(fits, default=1)
    assert sorted(1.0 - found.confident[chosen]) == ranked[: len(chosen)]


@pytest.mark.method("threshold")
def test_a_threshold_above_one_commits_one_token_a_round() -> None:
    request = answered(Threshold(block=4, threshold=1.01))
    assert [len(one.slots) for one in request.trace.rounds] == [1] * 12
    baseline = answered(LowConfidence(block=4))
    assert request.prefix == baseline.prefix and request.trace.slots == baseline.trace.slots


@pytest.mark.method("threshold")
def test_all_tokens_of_the_threshold_are_committed_and_one_at_least() -> None:
    request = answered(Threshold(block=6, threshold=0.6), slots=18)
    sizes = [len(one.slots) for one in request.trace.rounds]
    assert max(sizes) > 1 and min(sizes) == 1
    for one in request.trace.rounds:
        assert (one.probs[1:] >= 0.6).all()
        assert (np.diff(one.probs) <= 0).all()
        if one.probs[0] < 0.6:
            assert len(one.slots) == 1


@pytest.mark.method("threshold")
@pytest.mark.method("factor")
@pytest.mark.parametrize("seed", range(6))
def test_rounds_are_at_most_those_of_one_token_each(seed: int) -> None:
    baseline = answered(LowConfidence(block=4), temperature=0.5, seed=seed)
    assert baseline.trace.forwards == 12
    for rule in (Threshold(block=4, threshold=0.7), Factor(block=4, factor=1.3)):
        for cache in ("none", *CACHES):
            own = type(rule)(block=4, cache=cache)
            assert answered(own, temperature=0.5, seed=seed).trace.forwards <= 12


@pytest.mark.method("threshold")
@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_that_is_refreshed_every_round_changes_nothing(
    cache: str, runners: dict[int, MaskedDenoiser]
) -> None:
    plain, cached = (
        Denoising(
            runners[2], [5, 6, 7], Threshold(block=4, threshold=0.4, **more), max_new_tokens=14
        )
        for more in ({}, {"cache": cache, "refresh": 1})
    )
    assert cached.run()[0] == plain.run()[0]
    assert cached.trace.slots == plain.trace.slots and cached.trace.rows == plain.trace.rows
    mine = np.concatenate([one.logprobs for one in cached.trace.rounds])
    theirs = np.concatenate([one.logprobs for one in plain.trace.rounds])
    assert np.abs(mine - theirs).max() < 1e-12


def worst(model: MaskedDenoiser, **more: str | int) -> tuple[float, Denoising]:
    """The largest difference of a log-probability from a forward over all rows, with one token a
    round; both take the tokens of the first."""
    cached = Denoising(model, [5, 6, 7], LowConfidence(block=5, **more), max_new_tokens=13)
    largest = 0.0
    while not cached.done:
        before = cached.answer.copy()
        one = cached.step()
        ids = np.concatenate([[5, 6, 7], before])
        [logits] = model.read([Reading(ids=ids, want=np.sort(one.slots) + 3)])
        logp = torch.log_softmax(logits, -1).numpy()
        place = np.argsort(np.argsort(one.slots))
        own = logp[place, one.tokens]
        largest = max(largest, float(np.abs(own - one.logprobs).max()))
    return largest, cached


@pytest.mark.method("threshold")
@pytest.mark.parametrize("cache", CACHES)
def test_caches_are_exact_for_one_layer_and_approximate_for_two(
    cache: str, runners: dict[int, MaskedDenoiser]
) -> None:
    one, _ = worst(runners[1], cache=cache)
    two, _ = worst(runners[2], cache=cache)
    assert one < 1e-12
    assert two > 1e-4


@pytest.mark.method("threshold")
@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ("prefix", [[*range(11)], [*range(3, 11)], [*range(11)], [*range(7, 11)]]),
        ("dual", [[*range(11)], [*range(3, 7)], [*range(11)], [*range(7, 11)]]),
    ],
)
def test_rows_of_a_round(cache: str, expected: list[list[int]]) -> None:
    model = PairDenoiser()
    rule = LowConfidence(block=4, steps=4, cache=cache)
    Denoising(model, PROMPT, rule, max_new_tokens=8).run()
    assert model.read_rows == expected


@pytest.mark.method("threshold")
def test_refresh_computes_all_rows_again() -> None:
    model = PairDenoiser()
    Denoising(
        model, PROMPT, LowConfidence(block=8, cache="dual", refresh=3), max_new_tokens=8
    ).run()
    assert [len(rows) for rows in model.read_rows] == [11, 8, 8, 11, 8, 8, 11, 8]


def test_a_joint_with_conflicts_takes_the_nearest_texts() -> None:
    joint = Joint(np.array([[0, 1, 2], [1, 0, 2], [1, 1, 0]]), np.array([0.5, 0.3, 0.2]))
    assert joint.given({0: 1}).tolist() == [0.0, 0.3, 0.2]
    assert joint.given({0: 0, 1: 0}).tolist() == [0.5, 0.3, 0.0]
