"""The frozen part of a bottleneck: random projections, and the keys of several books.

Source: Traeuble et al., Discrete Key-Value Bottleneck, ICML 2023 (arXiv 2207.11240).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from outrider.core.checks import AT_LEAST_ONE, ZERO_OR_MORE, Range, check_ranges
from outrider.core.errors import OptionError

_RANGES: Mapping[str, Range] = {
    "books": AT_LEAST_ONE,
    "keys": AT_LEAST_ONE,
    "size": AT_LEAST_ONE,
    "decay": Range(0.0, 1.0, below=True, hint="Give a decay of at least 0 and below 1"),
    "epochs": ZERO_OR_MORE,
    "batch": AT_LEAST_ONE,
}
_LEAST_SCALE = 1e-6
"""Inputs that are the same in all states are divided by this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """How keys are made.

    Attributes:
        books: number of books, C in the paper.
        keys: number of keys of a book, J.
        size: numbers of a key, k.
        decay: share of the running means that a batch keeps.
        epochs: passes over the unlabelled states; 0: keys are some of these states.
        batch: states of a step.
        seed: seed of the projections, the first keys and the order of states.
    """

    books: int = 256
    keys: int = 1024
    size: int = 14
    decay: float = 0.95
    epochs: int = 10
    batch: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Keys:
    """Which key of each book is nearest to a state.

    States are standardised first, which the paper does not do: a few of the numbers of a hidden
    state are far larger than the others, and would decide alone.

    Attributes:
        projections: a random matrix for each book.
        keys: the keys of each book, among projected states.
        mean: subtracted from states.
        scale: divides the difference.
    """

    projections: Float[Tensor, "books hidden size"]
    keys: Float[Tensor, "books keys size"]
    mean: Float[Tensor, " hidden"]
    scale: Float[Tensor, " hidden"]

    @property
    def width(self) -> int:
        """Size of the states."""
        return self.projections.shape[1]

    def project(self, states: Float[Tensor, "..."]) -> Float[Tensor, "books rows size"]:
        """Return the standardised states in the space of each book.

        Raises:
            OptionError: states of another size, or that hold numbers that are not finite.
        """
        if states.ndim != 2 or states.shape[1] != self.width:
            raise OptionError(
                f"states have shape {list(states.shape)}, and [rows, {self.width}] is expected",
                hint="Give states of the model and layer for which the memory was made",
            )
        if not bool(states.isfinite().all()):
            raise OptionError("states hold numbers that are not finite", hint="Leave them out")
        return ((states.float() - self.mean) / self.scale) @ self.projections

    def fetch(
        self,
        states: Float[Tensor, "..."],
        allowed: Bool[Tensor, "books keys"] | None = None,
    ) -> Int64[Tensor, "rows books"]:
        """Return the number of the nearest key of each book, by squared distance.

        Args:
            states: the states.
            allowed: keys that may be fetched, at least one of each book; None: all.

        Raises:
            OptionError: as `project` does.
        """
        near = [
            nearest(rows, keys, None if allowed is None else allowed[book])
            for book, (rows, keys) in enumerate(zip(self.project(states), self.keys, strict=True))
        ]
        return torch.stack(near, dim=1)


def nearest(
    rows: Float[Tensor, "rows size"],
    keys: Float[Tensor, "keys size"],
    allowed: Bool[Tensor, " keys"] | None = None,
) -> Int64[Tensor, " rows"]:
    """Return the number of the key with the least squared distance to each row; the first one of
    several."""
    distances = keys.square().sum(1) - 2.0 * rows @ keys.T  # without |row|^2, equal for all keys
    if allowed is not None:
        distances = distances.masked_fill(~allowed, float("inf"))
    return distances.argmin(1)


class RunningMeans:
    """Keys that become running means of the rows nearest to them, as in VQ-VAE and k-means.

    Args:
        keys: the first keys; they count as one row each.
        decay: share of counts and sums that a batch keeps.
    """

    def __init__(self, keys: Float[Tensor, "keys size"], decay: float) -> None:
        self.keys = keys.clone()
        self._decay = decay
        self._counts, self._sums = torch.ones(len(keys)), keys.clone()

    def step(self, rows: Float[Tensor, "rows size"]) -> None:
        """Move the keys that are nearest to some of the rows; all others stay bit-identical."""
        near = nearest(rows, self.keys)
        counts = torch.bincount(near, minlength=len(self.keys)).float()
        sums = torch.zeros_like(self.keys).index_add_(0, near, rows)
        self._counts.lerp_(counts, 1.0 - self._decay)
        self._sums.lerp_(sums, 1.0 - self._decay)
        moved = counts > 0
        self.keys[moved] = self._sums[moved] / self._counts[moved, None]


def fit_keys(states: Float[Tensor, "rows hidden"], settings: KeySettings) -> Keys:
    """Make keys for states like these, without labels.

    Keys begin as some of the projected states, and become running means of what is nearest.

    Raises:
        OptionError: there are fewer states than keys of a book, or numbers that are not finite.
    """
    if len(states) < settings.keys:
        raise OptionError(
            f"there are {len(states)} unlabelled states for {settings.keys} keys",
            hint="Give more texts, or lower keys",
        )
    generator = torch.Generator().manual_seed(settings.seed)
    start = random_keys(states, settings, generator)
    projected = start.project(states)
    for book, rows in enumerate(projected):
        first = torch.randperm(len(rows), generator=generator)[: settings.keys]
        means = RunningMeans(rows[first], settings.decay)
        for _ in range(settings.epochs):
            for part in torch.randperm(len(rows), generator=generator).split(settings.batch):
                means.step(rows[part])
        start.keys[book] = means.keys
    return start


def random_keys(
    states: Float[Tensor, "rows hidden"],
    settings: KeySettings,
    generator: torch.Generator | None = None,
) -> Keys:
    """Make keys that are random numbers of the size of projected states: the ablation in which keys
    are not initialised on data. Only mean and scale are those of `states`."""
    generator = generator or torch.Generator().manual_seed(settings.seed)
    width, states = states.shape[1], states.float()
    shape = (settings.books, width, settings.size)
    return Keys(
        projections=torch.randn(shape, generator=generator) / math.sqrt(width),
        keys=torch.randn(settings.books, settings.keys, settings.size, generator=generator),
        mean=states.mean(0),
        scale=states.std(0, unbiased=False).clamp_min(_LEAST_SCALE),
    )
