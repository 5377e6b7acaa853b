"""When a small model asks a larger one: functions of its next-token distribution."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.errors import OptionError, in_short
from outrider.guidance.mix import wide
from outrider.guidance.mixer import Gate, Mask

FEATURES = 10
"""How many of the largest probabilities the machine reads."""


def top_probs(
    logits: Float[Tensor, "rows vocab"], count: int = FEATURES
) -> Float[Tensor, "rows count"]:
    """Return the largest probabilities of each row, descending; 0 for tokens that do not exist."""
    probs = torch.softmax(wide(logits), dim=-1)
    top = probs.topk(min(count, probs.shape[-1]), dim=-1).values
    return torch.nn.functional.pad(top, (0, count - top.shape[-1]))


def max_prob(threshold: float) -> Gate:
    """Return the router that asks if the largest probability is below `threshold`."""
    return lambda logits: top_probs(logits, 1)[:, 0] < threshold


def gap(threshold: float) -> Gate:
    """Return the router that asks if half the distance of the two largest probabilities is below
    `threshold`.

    Half the distance is at most 0.5, so that a threshold of 0.5 asks everywhere.
    """

    def asks(logits: Float[Tensor, "rows vocab"]) -> Mask:
        top = top_probs(logits, 2)
        return (top[:, 0] - top[:, 1]) / 2 < threshold

    return asks


def always(logits: Float[Tensor, "rows vocab"]) -> Mask:
    """Ask everywhere."""
    return torch.ones(len(logits), dtype=torch.bool, device=logits.device)


def never(logits: Float[Tensor, "rows vocab"]) -> Mask:
    """Ask nowhere."""
    return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A support vector machine with a radial kernel, which reads the `FEATURES` largest
    probabilities. It asks where `sum(weights * exp(-gamma |x - vectors|^2)) + bias` is above 0.

    Attributes:
        vectors: `[vectors, FEATURES]`.
        weights: `[vectors]`, with the sign of the class.
        gamma: width of the kernel.
        bias: is added to the sum.
    """

    vectors: NDArray[np.float64]
    weights: NDArray[np.float64]
    gamma: float
    bias: float

    def __call__(self, logits: Float[Tensor, "rows vocab"]) -> Mask:
        """Return the rows for which it asks."""
        values = [self.value(row) for row in top_probs(logits).double().cpu().numpy()]
        return torch.tensor([v > 0.0 for v in values], dtype=torch.bool, device=logits.device)

    def value(self, probs: NDArray[np.float64]) -> float:
        """Return the sum for one row `[FEATURES]`; alone, so that it depends on no other row."""
        apart = ((self.vectors - probs) ** 2).sum(axis=-1)
        return float((self.weights * np.exp(-self.gamma * apart)).sum() + self.bias)

    def save(self, path: Path) -> None:
        """Write the machine to an `.npz` file."""
        np.savez(path, vectors=self.vectors, weights=self.weights, gamma=self.gamma, bias=self.bias)

    @classmethod
    def load(cls, path: Path) -> "Machine":
        """Read a file that `save` has written.

        Raises:
            OptionError: the file cannot be read, or does not hold a machine.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                made = cls(
                    vectors=np.asarray(found["vectors"], dtype=np.float64),
                    weights=np.asarray(found["weights"], dtype=np.float64),
                    gamma=float(found["gamma"]),
                    bias=float(found["bias"]),
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise OptionError(
                f"{path} does not hold a router ({in_short(error)})", hint=_HINT
            ) from error
        if made.vectors.shape != (len(made.weights), FEATURES) or made.weights.ndim != 1:
            raise OptionError(
                f"the router in {path} has vectors of shape {made.vectors.shape} and weights of"
                f" shape {made.weights.shape}",
                hint=_HINT,
            )
        return made


_HINT = "Train one with `benchmarks/guidance/train_router.py`"
