"""Makes the choices of a plain sampler on the device: the same as `Sampler.choose`, for many rows.

Shapes depend only on the recipe, never on values. If a row cannot be decided within these shapes,
for example a nucleus wider than the candidates, the result is `UNDECIDED` and the host decides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.cuda.transfer import upload
from outrider.sampling import Sampler
from outrider.sampling.noise import Purpose, gumbel, signed, stream_key

UNDECIDED = -1
"""Returned instead of a token: the logits hold NaN, or the row needs more than the fixed shape."""

_CANDIDATES = 256
"""Number of best tokens considered for top-k and top-p."""
_MOST_CANDIDATES = 2048
"""Largest number of candidates that sorts in a captured graph support."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Options that determine the shapes of the program. Other values are inputs: see `weights`.

    Attributes:
        sampled: whether to sample; if not, the best token is chosen and the other options have no
            effect.
        top_k: as in `SamplingParams`; 0 keeps all.
        nucleus: whether top-p applies.
        floor: whether min-p applies.
        banned: whether some tokens are never chosen.
    """

    sampled: bool = False
    top_k: int = 0
    nucleus: bool = False
    floor: bool = False
    banned: bool = False

    @property
    def candidates(self) -> int | None:
        """Number of best tokens considered; None for all."""
        if not self.top_k and not self.nucleus:
            return None
        return max(_CANDIDATES, 2 * self.top_k)


@dataclass(frozen=True)
class Chooser:
    """The parameters of one sampler for the device."""

    sampler: Sampler

    @property
    def recipe(self) -> Recipe:
        """The options that determine the shapes."""
        p = self.sampler.params
        banned = bool(p.banned_tokens)
        if p.temperature == 0:
            return Recipe(banned=banned)
        return Recipe(True, p.top_k, p.top_p < 1.0, p.min_p > 0.0, banned)

    @cached_property
    def weights(self) -> FloatArray:
        """`[3]` float64: temperature, top-p, logarithm of min-p."""
        p = self.sampler.params
        floor = math.log(p.min_p) if p.min_p else -math.inf
        return np.array([p.temperature or 1.0, p.top_p, floor])

    def keys(self, indices: Sequence[int] | IntArray) -> IntArray:
        """Return the keys of the random streams for these generated indices."""
        seed, sample = self.sampler.seed, self.sampler.sample
        found = [stream_key(seed, sample, int(index), Purpose.CHOICE) for index in indices]
        return np.array([signed(key) for key in found], dtype=np.int64)


class Bans:
    """Buffer of the banned tokens that a program reads.

    Attributes:
        mask: `[vocab]`, true where a token is banned.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.mask = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._ids: tuple[int, ...] = ()

    def load(self, chooser: Chooser) -> None:
        """Load the bans of `chooser`; nothing is uploaded if they equal those of the last one."""
        ids = chooser.sampler.params.banned_tokens
        if ids != self._ids:
            banned = np.zeros(len(self.mask), dtype=np.bool_)
            banned[[i for i in ids if i < len(banned)]] = True
            upload(self.mask, banned)
            self._ids = ids


def chooser_for(sampler: Sampler, first_index: int) -> Chooser | None:
    """Build the device parameters for `sampler` from generated index `first_index` on.

    None if the sampler does more than warp and ban, or keeps more tokens than a fixed shape holds.
    """
    wide = 2 * sampler.params.top_k > _MOST_CANDIDATES
    known = type(sampler) is Sampler and sampler.quick(first_index)
    return Chooser(sampler) if known and not wide else None


def choose(
    recipe: Recipe,
    logits: Float[Tensor, "rows vocab"],
    keys: Int[Tensor, " rows"],
    weights: Float[Tensor, "3"],
    banned: Bool[Tensor, " vocab"],
) -> Int[Tensor, " rows"]:
    """Choose the token after each row, or `UNDECIDED`."""
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    usable = scores.amax(dim=-1).isfinite()  # amax returns NaN for a row that holds NaN
    if recipe.banned:
        scores = scores.masked_fill(banned, -torch.inf)
        usable = usable & scores.amax(dim=-1).isfinite()
    if not recipe.sampled:
        return scores.argmax(dim=-1).masked_fill(~usable, UNDECIDED)
    temperature, mass, floor = weights
    scores = scores / temperature.to(scores.dtype)
    ids, kept_scores, sure = _support(recipe, scores, mass)
    if recipe.floor:
        lowest = kept_scores.amax(dim=-1, keepdim=True) + floor.to(scores.dtype)
        kept_scores = kept_scores.masked_fill(kept_scores < lowest, -torch.inf)
    noisy = kept_scores.double() + gumbel(keys[:, None], ids)
    choice = ids.gather(-1, noisy.argmax(dim=-1, keepdim=True))[:, 0]
    return choice.masked_fill(~(usable & sure), UNDECIDED)


def _support(recipe: Recipe, scores: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `ids`, scores `[rows, candidates]` (-inf if excluded), and which rows are certain."""
    rows, vocab = scores.shape
    if recipe.candidates is None:
        ids = torch.arange(vocab, device=scores.device).expand(rows, vocab)
        return ids, scores, torch.ones(rows, dtype=torch.bool, device=scores.device)
    ids, best = _best(scores, min(recipe.candidates, vocab))
    inside, total = best > -torch.inf, scores
    # no token outside the candidates is better than the last one, but one may be equal
    last = (best == best[:, -1:]) & (len(best[0]) < vocab) & inside
    if 0 < recipe.top_k < vocab:
        inside = inside & (best >= best[:, recipe.top_k - 1 : recipe.top_k])
        total = best.masked_fill(~inside, -torch.inf)
        last = last & inside
    if recipe.nucleus:
        nucleus = inside & _nucleus(best, total, mass)
        last = last & (inside if 0 < recipe.top_k < vocab else nucleus)
        inside = nucleus
    return ids, best.masked_fill(~inside, -torch.inf), ~last.any(dim=-1)


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` best tokens and scores, best first; equal scores are ordered by id."""
    ids = scores.topk(count, dim=-1).indices.sort(dim=-1).values
    best, order = scores.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return ids.gather(-1, order), best


def _nucleus(best: Tensor, total: Tensor, mass: Tensor) -> Tensor:
    """Mark the smallest set of `best` that holds a share `mass` of `total`."""
    wide = total.double()
    top = wide.amax(dim=-1, keepdim=True)
    norm = (wide - top).exp().sum(dim=-1, keepdim=True)
    probs = (best.double() - top).exp() / norm
    before = probs.cumsum(dim=-1) - probs
    inside = before < mass
    inside[:, :1].fill_(True)
    return inside
