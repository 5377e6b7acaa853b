"""Rotary position embeddings (Su et al. 2021): rotate queries and keys by their position.

Each pair of head dimensions rotates by `position * frequency`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.models.llama.rope_scaling import Rope


class RotaryTable:
    """Cosines and sines of positions; the table grows on demand."""

    def __init__(self, rope: Rope, dtype: torch.dtype, device: torch.device) -> None:
        self._rope = rope
        self._dtype = dtype
        self._device = device
        self._cos = self._sin = torch.empty(0, dtype=dtype, device=device)

    def at(
        self, positions: Tensor, bound: int
    ) -> tuple[Float[Tensor, "tokens 1 head_dim"], Float[Tensor, "tokens 1 head_dim"]]:
        """Return cosines and signed sines for `positions` `[tokens]`, all of them below `bound`."""
        self._reach(bound)
        return self._cos[positions], self._sin[positions]

    def spread(
        self, axes: Int[Tensor, "axes tokens"], bound: int
    ) -> tuple[Float[Tensor, "tokens 1 head_dim"], Float[Tensor, "tokens 1 head_dim"]]:
        """Return cosines and signed sines for tokens with several places.

        The sections of a head use the axes in turn.
        """
        sections = self._rope.sections
        assert sections is not None  # models without sections refuse prompts with axes
        self._reach(bound)
        widths = 2 * sections  # both halves of a head have the same sections

        def shared_out(table: Tensor) -> Tensor:
            parts = table[axes].split(widths, dim=-1)
            turns = [i % len(sections) % len(axes) for i in range(len(parts))]
            return torch.cat([part[axis] for part, axis in zip(parts, turns, strict=True)], dim=-1)

        return shared_out(self._cos), shared_out(self._sin)

    def addresses(self, bound: int) -> tuple[int, int]:
        """Return the addresses of both tables, `[positions, head_dim]`, with at least `bound`
        positions.

        They are valid until the next call.
        """
        self._reach(bound)
        return self._cos.data_ptr(), self._sin.data_ptr()

    def _reach(self, bound: int) -> None:
        if bound > len(self._cos):
            longest = self._rope.context_length
            if bound > longest:  # under a policy of the cache that moves positions
                longest = bound + bound // 4
            self._grow(max(bound, min(2 * bound, longest)))

    def _grow(self, length: int) -> None:
        cos, sin = self._rope.turns(torch.arange(length, device=self._device), self._dtype)
        self._cos, self._sin = cos[:, None], sin[:, None]


def rotate(
    x: Float[Tensor, "tokens heads head_dim"],
    cos: Float[Tensor, "tokens 1 head_dim"],
    sin: Float[Tensor, "tokens 1 head_dim"],
) -> Float[Tensor, "tokens heads head_dim"]:
    """Rotate each head; dimension i is paired with i + head_dim / 2.

    The sines include the minus sign of the first half, so the partner is obtained by `roll`.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
