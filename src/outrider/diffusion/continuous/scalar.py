"""Sequences of single numbers from mixtures of normal densities: a model that is known exactly.

Its head predicts mean and variance of the clean number by the formula of the posterior. Tests and
`benchmarks/diffusion/continuous.py` use it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.diffusion.continuous.trajectory import noise_levels, run_steps
from outrider.diffusion.continuous.values import Densities


@dataclass(slots=True)
class NoCache:
    """The model reads only the number before a position."""

    def keep(self, images: Bool[Tensor, " images"]) -> None:
        """Do nothing: there is nothing to forget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarModel:
    """Clean number i has a mixture of normal densities, moved by `pull` times number i - 1.

    Attributes:
        weights: of the parts; they sum to 1.
        means: of the parts.
        stds: of the parts, 0 or more.
        pull: factor of the number before.
        length: numbers of a sequence.
        steps: denoising steps.
        least: standard deviation of the noise that remains.
        most: standard deviation of the first noise.
    """

    weights: tuple[float, ...] = (1.0,)
    means: tuple[float, ...] = (0.0,)
    stds: tuple[float, ...] = (1.0,)
    pull: float = 0.0
    length: int = 4
    steps: int = 8
    least: float = 0.3
    most: float = 40.0

    def __post_init__(self) -> None:
        if not len(self.weights) == len(self.means) == len(self.stds):
            raise OptionError(
                "weights, means and stds have different lengths", hint="Give one for each part"
            )

    @property
    def size(self) -> int:
        """A value is one number."""
        return 1

    def start(self, count: int) -> NoCache:
        """Return an empty cache."""
        return NoCache()

    def read(
        self,
        cache: NoCache,
        places: Int[Tensor, "images n"],
        before: Float[Tensor, "images n 1"],
    ) -> Float[Tensor, "images n 1"]:
        """Return by how much each number is moved."""
        return torch.where(places[..., None] > 0, self.pull * before, 0.0)

    def denoise(
        self, states: Float[Tensor, "*rows 1"], noise: Float[Tensor, "*rows steps 1"]
    ) -> Densities:
        """Run all steps but the draw of the last one."""
        levels = noise_levels(self.least, self.most, self.steps).tolist()
        parts = [
            torch.tensor(one, dtype=torch.float64) for one in (self.weights, self.means, self.stds)
        ]

        def predict(value: Tensor, step: int) -> tuple[Tensor, Tensor]:
            return _posterior(value - states, levels[step], *parts, moved=states)

        return run_steps(predict, levels, noise)


def _posterior(
    value: Tensor, sigma: float, weights: Tensor, means: Tensor, stds: Tensor, moved: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the clean number, given it with noise of `sigma`."""
    total = stds**2 + sigma**2
    away = value - means
    chances = (weights.log() - 0.5 * away**2 / total - 0.5 * total.log()).softmax(-1)
    centers = means + stds**2 / total * away
    mean = (chances * centers).sum(-1, keepdim=True)
    inner = stds**2 * sigma**2 / total
    variance = (chances * (inner + (centers - mean) ** 2)).sum(-1, keepdim=True)
    return mean + moved, variance
