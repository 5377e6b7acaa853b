"""Gates of key-value heads, trained or random, in a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Gates:
    """One number for each layer and key-value head.

    Attributes:
        values: `[layers, kv_heads]` from 0 to 1.
    """

    values: NDArray[np.float32]
    method: str = "random"
    fingerprint: str = ""

    @classmethod
    def load(cls, path: str | Path) -> "Gates":
        """Read a file."""
        raise NotImplementedError(path)

    def check(self, fingerprint: str, layers: int, kv_heads: int) -> None:
        """Raise `OptionError` for another model."""

    def full_heads(self, sparsity: float) -> NDArray[np.bool_]:
        """Return which heads stay full."""
        count = self.values.size - round(sparsity * self.values.size)
        order = np.argsort(-self.values.ravel(), kind="stable")
        full = np.zeros(self.values.size, dtype=bool)
        full[order[:count]] = True
        return full.reshape(self.values.shape)

    @classmethod
    def random(cls, layers: int, kv_heads: int, seed: int) -> "Gates":
        """Return random gates."""
        draw = np.random.default_rng(seed).random((layers, kv_heads))
        return cls(values=draw.astype(np.float32))
