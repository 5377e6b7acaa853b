"""Text as vectors: the contract of encoders, and what all of them need."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from outrider.core.types import Passage


@runtime_checkable
class Encoder(Protocol):
    """What turns passages into vectors whose cosines say how near they are in meaning."""

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def encode(self, passages: Sequence[Passage]) -> Float[ndarray, "passages width"]:
        """One unit vector each, float32 or float64; zeros for a passage that says nothing."""
        ...


@runtime_checkable
class Fitting(Protocol):
    """An encoder that first looks at all passages of an input."""

    def fit(self, passages: Sequence[Passage]) -> Encoder:
        """The encoder for these passages, and for queries to them.

        Raises:
            OptionError: passages of this kind can not be encoded.
        """
        ...


def fitted(encoder: Encoder, passages: Sequence[Passage]) -> Encoder:
    """`encoder`, made ready for `passages` where it asks for that."""
    return encoder.fit(passages) if isinstance(encoder, Fitting) else encoder


def unit(vectors: Float[ndarray, "*rows width"]) -> Float64[ndarray, "*rows width"]:
    """Vectors of length one, along the last axis; what has no length stays zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    # Divided by the largest part first: squares of tiny or huge numbers leave the range.
    largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0)
    vectors = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
