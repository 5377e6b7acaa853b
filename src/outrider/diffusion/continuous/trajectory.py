"""Noise levels, and the steps of a trajectory from noise to a value.

Level t of a value is the clean value plus noise of standard deviation sigma_t. Level 0 still has
noise: that is what is drawn, so that the last step has a density.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.diffusion.continuous.values import Densities

_CURVE = 7.0
"""Exponent of the noise levels, as in Karras et al. (arXiv 2206.00364)."""

Predict = Callable[
    [Float[Tensor, "*rows size"], int],
    tuple[Float[Tensor, "*rows size"], Float[Tensor, "*rows size"]],
]
"""From a noisy value and its level to mean and variance of the clean value."""


def noise_levels(least: float, most: float, steps: int) -> Float[Tensor, " levels"]:
    """Return `steps + 1` standard deviations, ascending from `least` to `most`."""
    ends = torch.tensor([least, most], dtype=torch.float64) ** (1 / _CURVE)
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return (ends[0] + share * (ends[1] - ends[0])) ** _CURVE


def run_steps(
    predict: Predict, levels: list[float], noise: Float[Tensor, "*rows steps size"]
) -> Densities:
    """Run all steps but the draw of the last one.

    Each step draws from the normal distribution whose mean and variance are those of the level
    below, given this level: the posterior of the noise, plus the variance of the clean value.

    Args:
        predict: the model.
        levels: standard deviations, ascending.
        noise: the first noise, then that of each step but the last. The same noise in two models
            aligns their trajectories.
    """
    steps = len(levels) - 1
    value = noise[..., 0, :] * levels[steps]
    log_spread = torch.zeros(noise.shape[:-2], dtype=torch.float64)
    mean = std = value
    for step in range(steps, 0, -1):
        if step < steps:
            value = mean + std * noise[..., steps - step, :]
        clean, variance = predict(value, step)
        kept = (levels[step - 1] / levels[step]) ** 2
        mean = clean + kept * (value - clean)
        std = (levels[step - 1] ** 2 * (1 - kept) + (1 - kept) ** 2 * variance).sqrt()
        log_spread += std.double().log().sum(-1)
    return Densities(mean.double(), std.double(), log_spread)
