"""Coupled noise: random numbers that depend on their purpose, not on the time of the call.

Two models that draw the token with the same generated index from the same seed use the same Gumbel
noise. Where their distributions agree, they draw the same token. This is why a draft can be
accepted by plain equality, and why speculation cannot change a sampled text.

Numbers come from a counter-based integer hash (the finaliser of SplitMix64, Steele, Lea and Flood
2014), so they are the same on every device and for every padding of the vocabulary.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


class Purpose(IntEnum):
    """The decision that a random number is used for. Two decisions never share a stream, except
    `CHOICE`."""

    CHOICE = 0
    """A model's own next token: all tiers share this stream intentionally."""
    ACCEPT = 1
    RESIDUAL = 2
    NEXT = 3
    BRANCH = 4
    """A draw inside one branch of a draft, or how the draft grows there; independent for each
    node."""
    RESAMPLE = 5
    """Which particles continue, and which one is drawn at the end (`constraints/monte_carlo/`)."""
    UNMASK = 6
    """The token of a masked position in one round, or the place of the position in a random order
    (`diffusion/`)."""


def _finalise(x: int) -> int:
    x = ((x ^ (x >> 30)) * _MIX1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX2) & _MASK
    return x ^ (x >> 31)


def stream_key(
    seed: int, sample: int, index: int, purpose: Purpose, tier: int = 0, sibling: int = 0
) -> int:
    """Return the 64-bit key of one stream. `index` counts generated tokens, never cache
    positions.
    """
    key = _finalise(seed & _MASK)  # hash the seed, so that (0, 1) and (1, 0) differ
    for part in (sample, index, int(purpose), tier, sibling):
        key = _finalise((key + _GOLDEN + (part & _MASK)) & _MASK)
    return key


def uniform(key: int) -> float:
    """Return one number in (0, 1) with a resolution of 52.5 bits; 53.5 bits would round up to 1."""
    return ((_finalise((key + _GOLDEN) & _MASK) >> 12) + 0.5) * 2.0**-52


def signed(x: int) -> int:
    """Convert an unsigned 64-bit number to the signed form that tensors use."""
    return x - (1 << 64) if x >= 1 << 63 else x


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift. The shift of torch is arithmetic, so the copied sign bits are masked
    off."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(
    key: int | Int[Tensor, "*#ids"], token_ids: Int[Tensor, "*ids"]
) -> Float[Tensor, "*ids"]:
    """Return float64 numbers in (0, 1), one for each token id; the key may be a tensor of `signed`
    keys.
    """
    x = token_ids * signed(_GOLDEN) + (signed(key) if isinstance(key, int) else key)
    x = (x ^ _shift(x, 30)) * signed(_MIX1)
    x = (x ^ _shift(x, 27)) * signed(_MIX2)
    x = x ^ _shift(x, 31)
    return (_shift(x, 12).to(torch.float64) + 0.5) * 2.0**-52


def gumbel(
    key: int | Int[Tensor, "*#ids"], token_ids: Int[Tensor, "*ids"]
) -> Float[Tensor, "*ids"]:
    """Return standard Gumbel noise, one number for each token id; argmax(log p + noise) draws from
    p.
    """
    return -torch.log(-torch.log(uniforms(key, token_ids)))


def gumbel_arrays(keys: Sequence[int], token_ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return the numbers of `gumbel` for `[rows, ids]`, with one key per row, computed by NumPy.
    This is several times faster for a few tokens. The numbers of negative ids are meaningless.
    """
    x = token_ids.astype(np.uint64) * np.uint64(_GOLDEN)
    x += np.array(keys, dtype=np.uint64)[:, None]
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX2)
    x ^= x >> np.uint64(31)
    uniform = ((x >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return -np.log(-np.log(uniform))
