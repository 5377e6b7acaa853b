"""Logistic regression on hidden states, and the threshold for a given recall."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from outrider.acceptance import Probe
from outrider.training.judge.labels import Labelled

_STEPS = 100
"""Steps of L-BFGS, which end earlier where the loss no longer falls."""
_MARGIN = 1e-6
"""By how much the threshold is above the chance of the last important token that it refuses."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A probe, with what it achieves on held-out tokens.

    Attributes:
        probe: the probe, with its threshold.
        penalty: the strength of the penalty that was chosen.
        loss: mean loss in nats of a held-out token.
        recall: share of the held-out important tokens that the threshold refuses.
        kept: share of the other held-out tokens that it accepts.
    """

    probe: Probe
    penalty: float
    loss: float
    recall: float
    kept: float


def fit_best(found: Labelled, penalties: Sequence[float], recall: float, held_out: int) -> Fitted:
    """Fit a probe for each penalty, and return the one with the smallest held-out loss.

    Args:
        found: tokens with labels.
        penalties: strengths of the L2 penalty on the weights of standardised states.
        recall: least share of important tokens that the threshold refuses, on held-out tokens; on
            all tokens where no important one is held out.
        held_out: each task whose number is a multiple of this one is held out; if no token remains
            on one of the sides, all tokens are on both.
    """
    chosen = found.prompts % held_out == 0
    split = bool(chosen.any()) and len({*found.important[~chosen].tolist()}) == 2
    training, test = (found.where(~chosen), found.where(chosen)) if split else (found, found)
    probes = [(penalty, fit_probe(training, penalty)) for penalty in penalties]
    penalty, probe = min(probes, key=lambda one: loss_of(one[1], test))
    deciding = test if bool(test.important.any()) else found
    threshold = threshold_for(chances(probe, deciding.states)[deciding.important], recall)
    probe = Probe(weight=probe.weight, bias=probe.bias, threshold=threshold)
    accepted = chances(probe, test.states) > threshold
    return Fitted(
        probe=probe,
        penalty=penalty,
        loss=loss_of(probe, test),
        recall=share(~accepted, test.important),
        kept=share(accepted, ~test.important),
    )


def fit_probe(found: Labelled, penalty: float) -> Probe:
    """Fit the chance that a token is correct, which is that it is not important.

    The loss is the mean cross-entropy plus `penalty` / 2 times the squared norm of the weights of
    standardised states. The mean and the deviation are then folded into weight and bias.
    """
    states = found.states.double()
    mean, deviation = states.mean(0), states.std(0, unbiased=False).clamp_min(1e-6)
    inputs, labels = (states - mean) / deviation, (~found.important).double()
    weight = torch.zeros(states.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(inputs @ weight + bias, labels)
        loss = loss + 0.5 * penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType] - torch types it as float
    folded = (weight / deviation).detach().float().double()  # as the file will hold it
    return Probe(weight=folded, bias=float(bias.detach() - (folded * mean).sum()))


def chances(probe: Probe, states: Float[Tensor, "tokens hidden"]) -> Float[Tensor, " tokens"]:
    """Return the chance of each token to be correct."""
    return torch.tensor(probe.odds(states), dtype=torch.float64).sigmoid()


def loss_of(probe: Probe, found: Labelled) -> float:
    """Return the mean cross-entropy in nats."""
    odds = torch.tensor(probe.odds(found.states), dtype=torch.float64)
    return float(F.binary_cross_entropy_with_logits(odds, (~found.important).double()))


def threshold_for(important: Float[Tensor, " tokens"], recall: float) -> float:
    """Return the smallest threshold that refuses this share of the important tokens.

    Args:
        important: their chances of being correct.
        recall: above 0 and at most 1.
    """
    if not len(important):
        return 0.5
    place = math.ceil(recall * len(important) - 1e-9) - 1
    return min(float(important.sort().values[place]) + _MARGIN, 1.0)


def share(accepted: Bool[Tensor, " tokens"], of: Bool[Tensor, " tokens"]) -> float:
    """Return the share of the tokens `of` that are accepted; 1 if there are none."""
    return float(accepted[of].double().mean()) if bool(of.any()) else 1.0
