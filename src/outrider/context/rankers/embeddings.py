"""Encodes text with the model's own input embeddings: needs no other model or package."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from torch import Tensor

from outrider.context.rankers.encoders import unit
from outrider.core.types import IntArray, Passage, as_ids

Embed = Callable[[IntArray], Tensor]
"""Maps token ids `[n]` to a model's input embeddings `[n, hidden]`."""

_FEW = 10
"""With fewer passages, the common direction is most of each vector, so it is not removed."""

_NOISE = 1e-9
"""Vectors this small relative to the mean are rounding errors."""


@dataclass(frozen=True)
class EmbeddingEncoder:
    """Encodes a passage as the mean of its input embeddings, with larger weights for rare tokens.

    Smooth inverse frequency (Arora et al. 2017, "A simple but tough-to-beat baseline for sentence
    embeddings"), with inverse document frequencies of the input itself in place of a corpus's word
    frequencies: each passage is the idf-weighted mean of its tokens, less the mean of all passages,
    less their first principal component.

    Attributes:
        embed: the model's input embeddings.
    """

    embed: Embed

    @property
    def name(self) -> str:
        """Its name in reports: `embeddings`."""
        return "embeddings"

    def fit(self, passages: Sequence[Passage]) -> "FittedEmbeddings":
        """Count the tokens of `passages`, and find the common component of their vectors."""
        seen = [np.unique(as_ids(passage.token_ids)) for passage in passages]
        ids, counts = np.unique(np.concatenate([as_ids(()), *seen]), return_counts=True)
        idf = dict(zip(ids.tolist(), np.log1p(len(passages) / counts).tolist(), strict=True))
        raw = FittedEmbeddings(self.embed, idf, float(np.log1p(max(len(passages), 1))))
        vectors = raw.means(passages)
        mean = vectors.mean(axis=0) if len(passages) > 1 else np.zeros(vectors.shape[1])
        common = np.zeros_like(mean)
        if len(passages) >= _FEW:
            common = principal_component(vectors - mean)
        return FittedEmbeddings(self.embed, idf, raw.rarest, mean, common)

    def encode(self, passages: Sequence[Passage]) -> Float64[ndarray, "passages width"]:
        """Return unit vectors of these passages, fitted to themselves."""
        return self.fit(passages).encode(passages)


@dataclass(frozen=True)
class FittedEmbeddings:
    """An `EmbeddingEncoder` fitted to the passages of an input.

    Attributes:
        embed: the model's input embeddings.
        idf: weight of each token of the input.
        rarest: weight of all other tokens, equal to the largest weight.
        mean: mean vector of all passages, `[width]`.
        common: their first principal component, `[width]`, a unit vector or zeros.
    """

    embed: Embed
    idf: dict[int, float]
    rarest: float
    mean: Float64[ndarray, " width"] | None = None
    common: Float64[ndarray, " width"] | None = None

    @property
    def name(self) -> str:
        """Its name in reports: `embeddings`."""
        return "embeddings"

    def encode(self, passages: Sequence[Passage]) -> Float64[ndarray, "passages width"]:
        """Return unit vectors; zeros for a passage without tokens or distinct component."""
        vectors = self.means(passages)
        lengths = np.linalg.norm(vectors, axis=1)
        if self.mean is not None and self.common is not None:
            vectors = vectors - self.mean
            vectors -= np.outer(vectors @ self.common, self.common)
        nothing = np.linalg.norm(vectors, axis=1) <= _NOISE * lengths
        vectors[nothing | (lengths == 0)] = 0.0
        return unit(vectors)

    def means(self, passages: Sequence[Passage]) -> Float64[ndarray, "passages width"]:
        """Return the weighted mean of each passage, without removing common components."""
        ids = np.unique(np.concatenate([as_ids(()), *(as_ids(p.token_ids) for p in passages)]))
        table = self._table(ids)
        weights = np.array([self.idf.get(token, self.rarest) for token in ids.tolist()])
        vectors = np.zeros((len(passages), table.shape[1]))
        for vector, passage in zip(vectors, passages, strict=True):
            if passage.token_ids:
                rows = np.searchsorted(ids, as_ids(passage.token_ids))
                vector[:] = np.average(table[rows], axis=0, weights=weights[rows])
        return vectors

    def _table(self, ids: IntArray) -> Float64[ndarray, "ids width"]:
        """Return the embedding of each id; of id 0 if there is none, to obtain the width."""
        found = self.embed(ids if len(ids) else as_ids([0])).detach()
        return found[: len(ids)].double().cpu().numpy()


def principal_component(vectors: Float64[ndarray, "rows width"]) -> Float64[ndarray, " width"]:
    """Return the first right singular vector, a unit vector; zeros if all vectors are zero.

    It is the last eigenvector of the smaller one of the two Gram matrices. A full decomposition
    would compute all singular vectors, and its many small steps wait for threads of busy processors
    (docs/results.md).
    """
    rows, width = vectors.shape
    largest = np.abs(vectors).max(initial=0.0)
    if not largest:
        return np.zeros(width)
    vectors = vectors / largest  # squares of tiny or huge numbers overflow
    if rows < width:
        found = np.linalg.eigh(vectors @ vectors.T)[1][:, -1] @ vectors
    else:
        found = np.linalg.eigh(vectors.T @ vectors)[1][:, -1]
    return unit(found)
