"""Drafts and views made by hand, and statistics for sampled distributions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.tree import chain_parents
from outrider.core.types import Draft, Draw, Rows, as_ids
from outrider.protocols.view import View
from outrider.sampling import Sampler, SamplingParams

NEVER = float("-inf")


def chain(
    tokens: Sequence[int],
    *,
    probs: Sequence[Tensor | None] | None = None,
    reference: Sequence[Tensor | None] | None = None,
    draw: Draw = Draw.IID,
) -> Draft:
    return tree(tokens, chain_parents(len(tokens)), probs=probs, reference=reference, draw=draw)


def tree(
    tokens: Sequence[int],
    parents: Sequence[int] | np.ndarray,
    *,
    probs: Sequence[Tensor | None] | None = None,
    reference: Sequence[Tensor | None] | None = None,
    draw: Draw = Draw.IID,
    probe: Sequence[bool] | None = None,
) -> Draft:
    return Draft(
        tokens=as_ids(tokens),
        parents=as_ids(parents),
        sources=("draft",) * len(tokens),
        draw=draw,
        probs=None if probs is None else tuple(probs),
        reference=None if reference is None else tuple(reference),
        probe=None if probe is None else np.asarray(probe, dtype=np.bool_),
    )


def view(
    draft: Draft,
    logits: Tensor,
    *,
    generated: Sequence[int] = (),
    tier: int = 0,
    ledger: Counters | None = None,
    end_ids: Sequence[int] = (),
    sample: int = 0,
    hidden: Tensor | None = None,
    **options,
) -> View:
    return View(
        sampler=Sampler(_params(**options), end_ids=end_ids, sample=sample),
        generated=list(generated),
        draft=draft,
        rows=Rows(logits, hidden),
        tier=tier,
        name="target",
        model="hand",
        ledger=ledger or Counters(),
    )


@cache
def _params(**options) -> SamplingParams:
    return SamplingParams.of(**{"seed": 0, **options})


def random_logits(rows: int, vocab: int, seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Seedling:
    """What a random tree grows from; strategies must not build checked dataclasses themselves."""

    parents: list[int]
    tokens: list[int]
    known: list[bool]
    probe: list[bool]
    seed: int

    def grow(self, vocab: int = 3) -> Draft:
        """A tree some of whose nodes have a reference."""
        rows = random_logits(len(self.parents), vocab, self.seed)
        reference = [row if k else None for row, k in zip(rows, self.known, strict=True)]
        return tree(self.tokens, self.parents, reference=reference, probe=self.probe)


@st.composite
def seedlings(draw: st.DrawFn, vocab: int = 3, most: int = 9) -> Seedling:
    size = draw(st.integers(0, most))
    return Seedling(
        parents=[draw(st.integers(-1, node - 1)) for node in range(size)],
        tokens=[draw(st.integers(0, vocab - 1)) for _ in range(size)],
        known=[draw(st.booleans()) for _ in range(size)],
        probe=[draw(st.integers(0, 5)) == 0 for _ in range(size)],
        seed=draw(st.integers(0, 99)),
    )


def surplus(counts: np.ndarray, probs: np.ndarray) -> float:
    """Pearson's chi-square of `counts` against `probs`, in standard deviations above its mean."""
    cells = probs > 0
    assert counts[~cells].sum() == 0
    expected = probs[cells] * counts.sum()
    chi = ((counts[cells] - expected) ** 2 / expected).sum()
    freedom = cells.sum() - 1
    return float((chi - freedom) / np.sqrt(2 * freedom))


def total_variation(counts: np.ndarray, probs: np.ndarray) -> float:
    return float(0.5 * np.abs(counts / counts.sum() - probs).sum())
