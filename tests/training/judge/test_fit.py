"""Logistic regression on states, and thresholds for a recall."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.training.judge.fit import chances, fit_best, fit_probe, loss_of, threshold_for
from outrider.training.judge.labels import Labelled

pytestmark = pytest.mark.method("judge")


def tokens(count: int, seed: int, width: int = 4) -> Labelled:
    """Tokens that are correct with the chance sigmoid(2 x - y + 0.5), for large states."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, width, generator=generator)
    odds = 2.0 * states[:, 0] - states[:, 1] + 0.5
    correct = torch.rand(count, generator=generator) < odds.sigmoid()
    scaled = states * torch.tensor([50.0, 1.0, 0.02, 7.0]) + 3.0
    return Labelled(scaled, ~correct, torch.arange(count) // 10)


def test_the_weights_are_those_of_the_data() -> None:
    """Also for states of different sizes, which are standardised and folded back."""
    probe = fit_probe(tokens(4000, 0), 1e-6)
    own = probe.weight * torch.tensor([50.0, 1.0, 0.02, 7.0])
    assert own.tolist() == pytest.approx([2.0, -1.0, 0.0, 0.0], abs=0.15)
    assert probe.bias + float(probe.weight.sum()) * 3.0 == pytest.approx(0.5, abs=0.15)


def test_a_larger_penalty_gives_smaller_weights_and_a_larger_loss() -> None:
    found = tokens(400, 1)
    probes = [fit_probe(found, penalty) for penalty in (1e-4, 0.1, 10.0)]
    norms = [float((p.weight * found.states.std(0)).norm()) for p in probes]
    losses = [loss_of(p, found) for p in probes]
    assert norms == sorted(norms, reverse=True) and losses == sorted(losses)


def test_the_gradient_of_the_documented_loss_is_zero() -> None:
    """Mean cross-entropy plus half the penalty times the squared norm, in standardised states."""
    found, penalty = tokens(400, 4), 0.3
    probe, states = fit_probe(found, penalty), found.states.double()
    deviation = states.std(0, unbiased=False)
    inputs = (states - states.mean(0)) / deviation
    errors = chances(probe, found.states) - (~found.important).double()
    gradient = inputs.T @ errors / len(states) + penalty * probe.weight * deviation
    assert gradient.abs().max() < 1e-4 and abs(float(errors.mean())) < 1e-4


def test_the_penalty_is_the_best_one_on_held_out_tasks() -> None:
    """120 tokens with 60 useless dimensions: without a penalty, the fit does not hold elsewhere."""
    found = tokens(120, 2)
    noise = torch.randn(120, 60, generator=torch.Generator().manual_seed(3))
    wide = Labelled(torch.cat((found.states, noise), 1), found.important, found.prompts)
    fitted = fit_best(wide, (1e-6, 0.3), recall=0.9, held_out=3)
    assert fitted.penalty == 0.3
    held = wide.where(wide.prompts % 3 == 0)
    assert fitted.loss == pytest.approx(loss_of(fitted.probe, held))
    accepted = chances(fitted.probe, held.states) > fitted.probe.threshold
    assert fitted.recall == pytest.approx(float((~accepted[held.important]).double().mean()))
    assert fitted.kept == pytest.approx(float(accepted[~held.important].double().mean()))
    assert fitted.recall >= 0.9 and fitted.kept > 0.0


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40), st.sampled_from([0.1, 0.5, 0.9, 1.0])
)
def test_a_threshold_refuses_the_recall_and_not_many_more(
    known: list[float], recall: float
) -> None:
    important = torch.tensor(known, dtype=torch.float64)
    threshold = threshold_for(important, recall)
    refused = (important <= threshold).sum()
    assert refused >= recall * len(known) - 1e-9
    needed = math.ceil(recall * len(known) - 1e-9)
    assert (important < threshold - 2e-6).sum() < needed


def test_without_held_out_tokens_of_a_kind_all_tokens_decide() -> None:
    found = tokens(60, 4)
    alike = Labelled(found.states, found.important, torch.zeros(60, dtype=torch.int64))
    fitted = fit_best(alike, (0.1,), recall=0.9, held_out=5)
    accepted = chances(fitted.probe, alike.states) > fitted.probe.threshold
    assert float((~accepted[alike.important]).double().mean()) >= 0.9
    none = torch.zeros(0, dtype=torch.float64)
    assert threshold_for(none, 0.9) == 0.5
