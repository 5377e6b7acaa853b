"""Values instead of tokens: densities instead of rows of logits, drafts and verdicts of values.

These types have the form of `Draft`, `Rows` and `Verdict`, and not their fields: a token is a whole
number with a probability, a value is a vector with a density, and a draft of values is a chain.
"""

import math
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, slots=True, eq=False)
class Densities:
    """Rows of normal densities with independent numbers, float64: the counterpart of `Rows`.

    Each is the density of a value, given all noise of its trajectory but that of the last step.

    Attributes:
        mean: of the last step.
        std: of the last step, above 0.
        log_spread: the sum, over all steps and numbers, of the logarithm of the standard deviation;
            only the published rule reads it.
    """

    mean: Float[Tensor, "*rows size"]
    std: Float[Tensor, "*rows size"]
    log_spread: Float[Tensor, "*rows"]

    def __getitem__(self, rows: int | slice | tuple[int | slice | Tensor, ...]) -> "Densities":
        """Return some of the rows."""
        return Densities(self.mean[rows], self.std[rows], self.log_spread[rows])

    def log_density(self, values: Float[Tensor, "*rows size"]) -> Float[Tensor, "*rows"]:
        """Return the logarithm of the density of each value, in its row."""
        return (-0.5 * ((values - self.mean) / self.std) ** 2 - self.std.log()).sum(
            -1
        ) - 0.5 * _LOG_2PI * values.shape[-1]

    def drawn(self, noise: Float[Tensor, "*rows size"]) -> Float[Tensor, "*rows size"]:
        """Return the values that standard normal noise stands for."""
        return self.mean + self.std * noise

    @property
    def usable(self) -> Bool[Tensor, "*rows"]:
        """Which rows are finite, with standard deviations above 0."""
        good = self.mean.isfinite() & self.std.isfinite() & (self.std > 0)
        return good.all(-1) & self.log_spread.isfinite()

    @staticmethod
    def stacked(rows: "list[Densities]") -> "Densities":
        """Put densities of consecutive positions beside each other, in dimension 1."""
        return Densities(
            torch.stack([one.mean for one in rows], dim=1),
            torch.stack([one.std for one in rows], dim=1),
            torch.stack([one.log_spread for one in rows], dim=1),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ValueDraft:
    """Chains of drafted values, one for each sequence: the counterpart of `Draft`.

    Attributes:
        values: the values; rows behind the length of a chain have no meaning.
        densities: the densities that they were drawn from.
        lengths: values of each chain.
    """

    values: Float[Tensor, "images n size"]
    densities: Densities
    lengths: Int[Tensor, " images"]


@dataclass(frozen=True, slots=True, eq=False)
class ValueVerdict:
    """The decision of a rule about drafts: the counterpart of `Verdict`.

    Attributes:
        accepted: values of each chain that are kept.
        next_values: the value behind them: a correction, or the target's own.
        rejected: whether a drafted value was rejected.
        tries: values that were tried for a correction; 0 without one.
        enveloped: whether the correction needed the second proposal (`residual_draw`).
        bounded: whether the tries were used up, so that the correction does not have the density of
            the residual.
    """

    accepted: Int[Tensor, " images"]
    next_values: Float[Tensor, "images size"]
    rejected: Bool[Tensor, " images"]
    tries: Int[Tensor, " images"]
    enveloped: Bool[Tensor, " images"]
    bounded: Bool[Tensor, " images"]


@runtime_checkable
class ValueCache(Protocol):
    """What a model stores for some sequences."""

    def keep(self, images: Bool[Tensor, " images"]) -> None:
        """Forget the other sequences."""
        ...


C = TypeVar("C", bound=ValueCache)


@runtime_checkable
class ValueModel(Protocol[C]):
    """A model of sequences of real vectors: the counterpart of `LanguageModel`.

    The rows of a forward are states; `denoise` makes densities of them.
    """

    @property
    def length(self) -> int:
        """Values of a sequence."""
        ...

    @property
    def size(self) -> int:
        """Numbers of a value."""
        ...

    @property
    def steps(self) -> int:
        """Denoising steps of a value."""
        ...

    def start(self, count: int) -> C:
        """Return an empty cache for `count` sequences."""
        ...

    def read(
        self, cache: C, places: Int[Tensor, "images n"], before: Float[Tensor, "images n size"]
    ) -> Float[Tensor, "images n hidden"]:
        """Read the inputs of `places`, write their slots, and return the states of these positions.

        Args:
            cache: of the sequences; it is overwritten from the first of `places` on.
            places: positions, ascending; `length` stands for none.
            before: for each place, the value of the position before it; not read at place 0.
        """
        ...

    def denoise(
        self, states: Float[Tensor, "*rows hidden"], noise: Float[Tensor, "*rows steps size"]
    ) -> Densities:
        """Run all denoising steps but the draw of the last one.

        Args:
            states: of the positions.
            noise: the first noise, then that of each step but the last.
        """
        ...
