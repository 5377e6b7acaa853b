"""The diffusion head: from the state of a position to the density of its value.

Noise is added and not mixed in (level t is the clean value plus noise of standard deviation
sigma_t), and inputs and outputs are scaled as by Karras et al. (arXiv 2206.00364). The head is an
MLP whose norms are shifted and scaled by state and level, as in MAR (arXiv 2406.11838).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from outrider.diffusion.continuous.patches.config import Grid, PatchShape
from outrider.diffusion.continuous.trajectory import run_steps
from outrider.diffusion.continuous.values import Densities

_LEAST, _MOST = -8.0, 3.0
"""Bounds of the logarithm of the predicted variance, relative to the scale of the output."""


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, hidden: Tensor, modulation: Tensor) -> Tensor:
        shift, scale, gate = modulation.chunk(3, dim=-1)
        normed = F.layer_norm(hidden, hidden.shape[-1:]) * (1 + scale) + shift
        return hidden + gate * self.down(F.silu(self.up(normed)))


class DiffusionHead(nn.Module):
    """Predicts mean and variance of the clean value, given a noisy one, its level and a state."""

    def __init__(self, grid: Grid, shape: PatchShape) -> None:
        super().__init__()
        width = shape.head_width
        self.size = grid.size
        self.embed_level = nn.Embedding(grid.steps + 1, width)
        self.embed_value = nn.Linear(grid.size, width)
        self.state = nn.Linear(shape.hidden_size, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(shape.head_blocks))
        self.last = nn.Linear(width, 2 * grid.size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        levels = grid.levels()
        both = levels**2 + grid.spread**2
        scales = [both.rsqrt(), grid.spread**2 / both, levels * grid.spread * both.rsqrt()]
        self.register_buffer("scales", torch.stack(scales).float(), persistent=False)
        self._levels: list[float] = levels.tolist()

    def forward(
        self,
        noisy: Float[Tensor, "*rows size"],
        level: Int[Tensor, "*rows"],
        states: Float[Tensor, "*rows hidden"],
    ) -> tuple[Float[Tensor, "*rows size"], Float[Tensor, "*rows size"], Float[Tensor, "*rows 1"]]:
        """Return mean and log-variance of the clean value, and the scale of the output.

        The log-variance is relative to the scale: the standard deviation is `scale * exp(v / 2)`.
        """
        condition = F.silu(self.state(states) + self.embed_level(level))
        scales = self.scales[:, level].unsqueeze(-1)  # type: ignore[index]
        mean, variance = self._predict(noisy, scales, self._modulations(condition))
        return mean, variance, scales[2]

    def _modulations(self, condition: Tensor) -> list[Tensor]:
        return [block.modulation(condition) for block in self.blocks]  # type: ignore[operator]

    def _predict(
        self, noisy: Tensor, scales: Tensor, modulations: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        inner, skip, outer = scales
        hidden = self.embed_value(noisy * inner)
        for block, modulation in zip(self.blocks, modulations, strict=True):
            hidden = block(hidden, modulation)
        found, variance = self.last(F.layer_norm(hidden, hidden.shape[-1:])).chunk(2, dim=-1)
        return skip * noisy + outer * found, variance.clamp(_LEAST, _MOST)

    @torch.inference_mode()
    def denoise(
        self,
        states: Float[Tensor, "*rows hidden"],
        noise: Float[Tensor, "*rows steps size"],
    ) -> Densities:
        """Run all steps but the draw of the last one.

        Args:
            states: of the positions.
            noise: the first noise, then that of each step but the last, in the dtype of the head.
        """
        # Shifts and scales depend on states and levels alone: those of all steps are computed at
        # once, which leaves few operations for each step.
        condition = F.silu(self.state(states)[..., None, :] + self.embed_level.weight)
        modulations = [one.unbind(-2) for one in self._modulations(condition)]
        scales = self.scales.unbind(1)  # type: ignore[operator]

        def predict(value: Tensor, step: int) -> tuple[Tensor, Tensor]:
            own = [one[step] for one in modulations]
            clean, variance = self._predict(value, scales[step], own)
            return clean, scales[step][2] ** 2 * variance.exp()

        return run_steps(predict, self._levels, noise)
