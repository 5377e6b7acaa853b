"""Denoisers for tests, and rules with small settings."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.diffusion import Denoising, Diffusion, Drawing
from outrider.diffusion.rules.confident import Confident
from outrider.diffusion.rules.explore import Explore
from outrider.diffusion.rules.factor import Factor
from outrider.diffusion.rules.learned import Learned
from outrider.diffusion.rules.low_confidence import LowConfidence
from outrider.diffusion.rules.threshold import Threshold
from outrider.models.denoisers.filter import UnmaskingFilter
from outrider.models.denoisers.tabular import Joint, TabularDenoiser
from outrider.protocols.denoiser import Reading

PROMPT = (1, 2, 0)


class PairDenoiser(TabularDenoiser):
    """Each token that is seen, the mask too, adds logits that depend on it and on its distance.

    Like a model of one layer: what a stored row adds is what its token was when it was computed.

    Attributes:
        read_rows: the rows of each reading, in order.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 6,
        seed: int = 0,
        scale: float = 0.4,
        context_length: int = 1 << 20,
        end_ids: tuple[int, ...] = (),
    ) -> None:
        super().__init__(
            Joint(np.zeros((1, 1), np.int64), np.ones(1)),
            vocab_size=vocab_size,
            context_length=context_length,
            end_ids=end_ids,
        )
        generator = torch.Generator().manual_seed(seed)
        shape = (5, vocab_size + 1, vocab_size + 1)
        self.table = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.read_rows: list[list[int]] = []

    def read(self, readings: Sequence[Reading]) -> list[Float[Tensor, "want vocab"]]:
        """Note the rows, and read."""
        for one in readings:
            rows = range(len(one.ids)) if one.rows is None else one.rows.tolist()
            self.read_rows.append(list(rows))
        return super().read(readings)

    def _conditionals(
        self, ids: IntArray, seen: dict[int, int], want: IntArray
    ) -> Float[Tensor, "want vocab"]:
        logits = torch.zeros(len(want), self.info.vocab_size, dtype=torch.float64)
        for row, position in enumerate(want.tolist()):
            for other, token in seen.items():
                if other != position:
                    logits[row] += self.table[(position - other) % 5, token]
            own = seen[position]
            if own != self.mask_id:
                logits[row, own] += 9.0
        logits[:, self.mask_id] = -torch.inf
        return logits


def unmasking_filter(
    block: int, *, bias: float = 0.0, fingerprint: str | None = None, seed: int = 0
) -> UnmaskingFilter:
    """A filter of random weights for `PairDenoiser`; the bias is added to all its logits."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(2, block, block, generator=generator)
    weights = {
        "inner.weight": square[0],
        "inner.bias": torch.zeros(block),
        "outer.weight": square[1],
        "outer.bias": torch.full((block,), bias),
    }
    own = PairDenoiser().info.fingerprint if fingerprint is None else fingerprint
    return UnmaskingFilter(weights, own)


RULES: dict[str, Callable[..., Diffusion]] = {
    "low-confidence": LowConfidence,
    "margin": lambda **more: LowConfidence(confidence="margin", **more),
    "entropy": lambda **more: LowConfidence(confidence="entropy", **more),
    "random": lambda **more: LowConfidence(confidence="random", **more),
    "threshold": lambda **more: Threshold(threshold=0.5, **more),
    "factor": lambda **more: Factor(factor=1.6, **more),
    "learned": lambda **more: Learned(filter=unmasking_filter(more["block"]), accept=0.5, **more),
    "confident": lambda **more: Confident(gamma=0.5, **more),
    "explore": lambda **more: Explore(threshold=0.5, branches=3, **more),
}
"""Rules that several tests compare, with settings that commit several tokens a round."""


def answered(
    rule: Diffusion, slots: int = 12, *, temperature: float = 0.0, seed: int = 0, scale: float = 0.4
) -> Denoising:
    """Write an answer of a `PairDenoiser`."""
    drawing = Drawing(temperature=temperature, seed=seed)
    request = Denoising(
        PairDenoiser(scale=scale), PROMPT, rule, max_new_tokens=slots, drawing=drawing
    )
    request.run()
    return request
