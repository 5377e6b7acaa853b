"""Trains a model of patches on images, and a draft model on the predictions of its target."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.diffusion.continuous.patches.config import Grid
from outrider.diffusion.continuous.patches.model import PatchModel
from outrider.training.patches.data import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Noisy:
    """Noisy patches of a step, with their noise levels.

    Attributes:
        values: clean patches plus noise.
        levels: numbers of noise levels, from 0, the least noise, to `steps`.
    """

    values: Float[Tensor, "draws images length size"]
    levels: Int[Tensor, "draws images length"]


def noisy(batch: Batch, grid: Grid, draws: int, source: torch.Generator) -> Noisy:
    """Add noise of random levels, from a generator."""
    shape = (draws, *batch.clean.shape[:2])
    levels = torch.randint(grid.steps + 1, shape, generator=source)
    noise = torch.randn((draws, *batch.clean.shape), generator=source)
    return Noisy(batch.clean + grid.levels().float()[levels][..., None] * noise, levels)


def states_of(model: PatchModel, batch: Batch) -> Float[Tensor, "images length hidden"]:
    """Return the states of all positions, which read the noisy patches before them."""
    first = torch.zeros_like(batch.context[:, :1])
    return model(torch.cat([first, batch.context[:, :-1]], dim=1))


def image_loss(model: PatchModel, batch: Batch, seen: Noisy) -> tuple[Tensor, Tensor]:
    """Return the squared error of the mean, relative to the scale of its level, and the negative
    log-likelihood (without constants) of the variance, whose gradient does not reach the mean."""
    states = states_of(model, batch).expand(*seen.levels.shape, -1)
    mean, variance, scale = model.head(seen.values, seen.levels, states)
    error = ((batch.clean - mean) / scale) ** 2
    # The variance has the same head, so its gradient is kept small.
    likelihood = (error.detach() * (-variance).exp() + variance) / 2
    return error.mean(), likelihood.mean()


def draft_loss(
    draft: PatchModel, target: PatchModel, batch: Batch, seen: Noisy
) -> tuple[Tensor, Tensor]:
    """Return the squared distances of mean and log-variance from those of the target.

    The prediction of the target is the expectation of the clean patch as the target sees it, so it
    teaches the same as images do, with less noise, and with the errors of the target.
    """
    with torch.no_grad():
        states = states_of(target, batch).expand(*seen.levels.shape, -1)
        wanted, spread, scale = target.head(seen.values, seen.levels, states)
    states = states_of(draft, batch).expand(*seen.levels.shape, -1)
    mean, variance, _ = draft.head(seen.values, seen.levels, states)
    return (((wanted - mean) / scale) ** 2).mean(), ((variance - spread) ** 2).mean()
