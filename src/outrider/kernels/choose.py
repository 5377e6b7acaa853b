"""Chooses a token from a row of scores with the compiled kernel."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.kernels.layout import SamplerLayout
from outrider.kernels.library import library

NOT_FINITE, NOTHING_ALLOWED = -1, -2
"""Results of `choose` for a row that holds NaN or +inf, and for a row of only -inf."""

_MASK = (1 << 64) - 1
_LARGEST = (1 << 31) - 1
"""Largest id that the kernel supports; no vocabulary has larger ones."""


@dataclass(frozen=True, slots=True)
class PlainSampler:
    """The sampling settings that the kernel supports, in its layout."""

    layout: SamplerLayout
    kept: object
    """The array that `layout` points to; it must stay alive as long as `layout`."""

    @classmethod
    def of(
        cls,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        seed: int,
        sample: int,
        banned: Sequence[int] = (),
    ) -> "PlainSampler":
        """Build the layout; the arguments have the meaning of the fields of `SamplingParams`."""
        ids = np.array([i for i in banned if i <= _LARGEST], dtype=np.int32)
        streams = seed & _MASK, sample & _MASK
        layout = SamplerLayout(
            temperature, top_k, top_p, min_p, *streams, ids.ctypes.data, len(ids)
        )
        return cls(layout, ids)


def choose(
    scores: Float[Tensor, " vocab"],
    sampler: PlainSampler,
    index: int,
    allowed: NDArray[np.bool_] | None = None,
) -> int:
    """Return the token at generated index `index`: argmax of warped scores plus noise.

    Args:
        scores: float32, contiguous and on the CPU.
        sampler: the settings.
        index: of the token in the answer.
        allowed: `[vocab]`, which tokens may be chosen; None: all of them.

    Without a possible choice the result is `NOT_FINITE` or `NOTHING_ALLOWED`, which are negative.
    """
    loaded = library()
    assert loaded is not None
    size = scores.shape[0]
    scratch, mask = 0, 0
    if sampler.layout.temperature or sampler.layout.num_banned or allowed is not None:
        room = torch.empty(3 * size + 64)
        scratch = room.data_ptr()
    if allowed is not None:
        allowed = np.ascontiguousarray(allowed)
        assert allowed.shape == (size,)
        mask = allowed.ctypes.data
    return loaded.outrider_choose(
        scores.data_ptr(), size, ctypes.byref(sampler.layout), index, mask, None, scratch
    )
