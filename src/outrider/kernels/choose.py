"""A token from a row of scores, by the compiled kernel."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.kernels.layout import SamplerLayout
from outrider.kernels.library import library

NOT_FINITE, NOTHING_ALLOWED = -1, -2
"""What `choose` returns for NaN or +inf, and where every score is -inf."""

_MASK = (1 << 64) - 1
_LARGEST = (1 << 31) - 1
"""No vocabulary has larger ids."""


@dataclass(frozen=True, slots=True)
class PlainSampler:
    """The settings the kernel knows, laid out for it."""

    layout: SamplerLayout
    kept: object
    """What the layout points to."""

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
        """Lay out the settings; the names are those of `SamplingParams`."""
        ids = np.array([i for i in banned if i <= _LARGEST], dtype=np.int32)
        streams = seed & _MASK, sample & _MASK
        layout = SamplerLayout(
            temperature, top_k, top_p, min_p, *streams, ids.ctypes.data, len(ids)
        )
        return cls(layout, ids)


def choose(scores: Float[Tensor, " vocab"], sampler: PlainSampler, index: int) -> int:
    """The token at generated index `index`: argmax of warped scores plus noise.

    `scores` are float32, contiguous and on the CPU. Negative for rows without a choice, see
    `NOT_FINITE` and `NOTHING_ALLOWED`.
    """
    loaded = library()
    assert loaded is not None
    size = scores.shape[0]
    scratch = 0
    if sampler.layout.temperature or sampler.layout.num_banned:
        room = torch.empty(3 * size + 64)
        scratch = room.data_ptr()
    return loaded.outrider_choose(
        scores.data_ptr(), size, ctypes.byref(sampler.layout), index, scratch
    )
