"""The contract of encoders, which map text to vectors, and functions that they share."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from outrider.core.types import Passage


@runtime_checkable
class Encoder(Protocol):
    """Maps passages to vectors whose cosines measure similarity of meaning."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    def encode(self, passages: Sequence[Passage]) -> Float[ndarray, "passages width"]:
        """Return a unit vector for each passage, float32 or float64; zeros for an empty one."""
        ...


@runtime_checkable
class Fitting(Protocol):
    """An encoder that is first fitted to all passages of an input."""

    def fit(self, passages: Sequence[Passage]) -> Encoder:
        """Return the encoder for these passages and for queries to them.

        Raises:
            OptionError: passages of this kind cannot be encoded.
        """
        ...


def fitted(encoder: Encoder, passages: Sequence[Passage]) -> Encoder:
    """Return `encoder`, fitted to `passages` if it supports that."""
    return encoder.fit(passages) if isinstance(encoder, Fitting) else encoder


def unit(vectors: Float[ndarray, "*rows width"]) -> Float64[ndarray, "*rows width"]:
    """Scale vectors to length one along the last axis; zero vectors stay zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    # Divide by the largest component first: squares of tiny or huge numbers overflow.
    largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0)
    vectors = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
