"""Combines the rows of several sources into one, and says which sources are needed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from outrider.core.types import IntArray, Rows
from outrider.guidance.cache import MixedCache
from outrider.guidance.mix import Space, mix

Mask = Bool[Tensor, " rows"]
"""Which of the wanted rows are meant."""


@dataclass(kw_only=True)
class Found:
    """What the sources say about the wanted rows of one text.

    Attributes:
        cache: the caches of the text.
        want: `[rows]` numbers of the wanted rows since the last commit; -1 is the last pending
            token.
        rows: for each source its rows, those of its mask only; None: it was not read.
        masks: for each source the rows for which it was read; None means all.
    """

    cache: MixedCache
    want: IntArray
    rows: list[Rows | None]
    masks: list[Mask | None]

    @classmethod
    def of(cls, cache: MixedCache, want: IntArray) -> "Found":
        """Return the record of a text before any source is read."""
        count = len(cache.sources)
        return cls(cache=cache, want=want, rows=[None] * count, masks=[None] * count)

    def __len__(self) -> int:
        return len(self.want)

    @cached_property
    def texts(self) -> list[tuple[int, ...]]:
        """The generated tokens up to and including each wanted row."""
        return [self.cache.written(int(row)) for row in self.want]

    def logits(self, source: int) -> Float[Tensor, "rows vocab"]:
        """Return the logits of a source that was read for all rows."""
        rows = self.rows[source]
        assert rows is not None and self.masks[source] is None
        return rows.logits


class Mixer(ABC):
    """Combines the rows of several sources, row by row.

    A row of the result depends on the rows of the sources with the same text only, so that drafts
    and other requests do not change it.

    Attributes:
        reads_texts: whether rows depend on `Found.texts`, so on where the prompt ends.
    """

    reads_texts: ClassVar[bool] = False

    @property
    def stages(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of the sources, in the order in which they are read.

        Sources of one stage are read together; those of a later stage may depend on what was found
        before.
        """
        return ((0,),)

    def wanted(self, source: int, found: Found) -> Mask | None:
        """Return the rows for which `source` is read, given the sources of earlier stages.

        None means all. A source that is not read catches up when it is read again.
        """
        return None

    @abstractmethod
    def mixed(self, found: Found) -> Float[Tensor, "rows vocab"]:
        """Return scores whose softmax is the mixed distribution of each row."""


Gate = Callable[[Float[Tensor, "rows vocab"]], Mask]
"""Maps the logits of the base to the rows that are mixed."""

RowMap = Callable[[Float[Tensor, "rows vocab"]], Float[Tensor, "rows vocab"]]
"""Maps logits to logits, row by row."""


@dataclass(frozen=True, kw_only=True)
class Weighted(Mixer):
    """The weighted sum of all sources (`guidance.mix.mix`).

    Attributes:
        weights: one for each source; sources with weight 0 are not read.
        space: the values to add.
        alpha: excludes tokens that are less likely than this share of the best one.
        reference: the source that `alpha` refers to.
        temperatures: divides the logits of each source; empty: 1 for all.
        maps: changes the logits of a source before they are added, by its number.
        gate: the rows that are mixed; the other sources are read for these only. None: all.
    """

    weights: Sequence[float]
    space: Space = "logits"
    alpha: float = 0.0
    reference: int = 0
    temperatures: Sequence[float] = ()
    maps: Mapping[int, RowMap] = field(default_factory=dict[int, RowMap])
    gate: Gate | None = None

    @property
    def stages(self) -> tuple[tuple[int, ...], ...]:
        """The base first, if it decides about the others."""
        read = tuple(i for i, weight in enumerate(self.weights) if i == 0 or weight != 0.0)
        return (read,) if self.gate is None else ((0,), read[1:])

    def wanted(self, source: int, found: Found) -> Mask | None:
        """Return the rows that the gate lets through."""
        return None if self.gate is None or source == 0 else self.gate(found.logits(0))

    def mixed(self, found: Found) -> Float[Tensor, "rows vocab"]:
        """Mix the rows; those that the gate leaves out stay as the base has them."""
        base = found.logits(0)
        if self.weights[0] == 1.0 and not any(self.weights[1:]):
            return base
        if self.gate is None:
            return self._mixed([self._scaled(found, i) for i in range(len(self.weights))])
        masks = [mask for mask in found.masks if mask is not None]
        if not masks or not bool(masks[0].any()):
            return base
        rows = [self._scaled(found, i) for i in range(len(self.weights))]
        if rows[0] is not None:
            rows[0] = rows[0][masks[0]]
        some = self._mixed(rows)
        out = base.to(some.dtype, copy=True)
        out[masks[0]] = some
        return out

    def _scaled(self, found: Found, source: int) -> Tensor | None:
        rows = found.rows[source]
        if rows is None:
            return None
        logits = self.maps[source](rows.logits) if source in self.maps else rows.logits
        temperature = self.temperatures[source] if self.temperatures else 1.0
        return logits if temperature == 1.0 else logits / temperature

    def _mixed(self, rows: Sequence[Tensor | None]) -> Tensor:
        read = [(row, w, i) for i, (row, w) in enumerate(zip(rows, self.weights, strict=True))]
        known = [(row, w, i) for row, w, i in read if row is not None]
        where = next(n for n, (_, _, i) in enumerate(known) if i == self.reference)
        return mix(
            [row for row, _, _ in known],
            [w for _, w, _ in known],
            space=self.space,
            alpha=self.alpha,
            reference=where,
        )
