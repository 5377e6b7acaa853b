"""Masked denoisers: models that predict all masked positions of a text at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.protocols.info import ModelInfo


@runtime_checkable
class RowStore(Protocol):
    """Keys and values of some positions of one text, from earlier forwards.

    A stored row belongs to the text as it was when the row was computed. It stays valid as an
    approximation when other positions change: each row of a denoiser depends on all positions.
    """

    @property
    def positions(self) -> IntArray:
        """The positions that are stored, ascending."""
        ...

    def drop(self, positions: IntArray | None = None) -> None:
        """Forget these positions; with None, all of them."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that are stored."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One text of one forward of a denoiser.

    Attributes:
        ids: the whole text `[length]`; masked positions hold `Denoiser.mask_id`.
        rows: the positions that are computed, ascending; None: all. A computed row attends to all
            computed rows and to the rows of `store` at other positions, in both directions. A
            position that is neither computed nor stored is not seen. Stored rows at computed
            positions are not read, and they stay as they were unless `keep` names them.
        want: the positions whose predictions are returned, ascending, among `rows`.
        store: rows of earlier forwards over this text; None: there are none.
        keep: the positions, among `rows`, whose keys and values are put into `store` after the
            forward; None: no position.
    """

    ids: IntArray
    want: IntArray
    rows: IntArray | None = None
    store: RowStore | None = None
    keep: IntArray | None = None


@runtime_checkable
class Denoiser(Protocol):
    """A model that predicts the token of each masked position from the whole text.

    Predictions stand at their own positions: a model whose row i predicts position i + 1 (`shifted`
    checkpoints, such as Dream) is adapted by its runner, which also computes the rows before those
    that are wanted. Such an added row counts as a computed one: all others attend to it. It is
    kept only if `keep` names it, so `rows` must hold it too.
    """

    @property
    def info(self) -> ModelInfo:
        """The properties of the model: name, vocabulary, window, device."""
        ...

    @property
    def mask_id(self) -> int:
        """The id of a masked position. Its logit is minus infinity in every prediction."""
        ...

    def new_store(self, length: int) -> RowStore:
        """Return an empty store for a text of `length` positions."""
        ...

    def read(self, readings: Sequence[Reading]) -> list[Float[Tensor, "want vocab"]]:
        """Read the texts in one forward; return the logits of the wanted positions of each.

        Several readings may share a store if none of them keeps rows in it. Readings that compute,
        read and return equal numbers of rows are one batch.

        Raises:
            ContextError: a text is longer than the window.
            ValueError: ids are outside the vocabulary or positions outside the text, positions are
                not ascending, `want` or `keep` is not among `rows`, a store is that of another
                model or length, or a reading keeps rows in a store that another reading uses.
        """
        ...


@runtime_checkable
class Completable(Protocol):
    """Which partial answers can still become allowed ones."""

    def allows(self, answer: IntArray) -> bool:
        """Whether an answer, with the id of the mask at its open positions, can be completed."""
        ...

    def complete(self, answer: IntArray) -> IntArray | None:
        """Return a whole allowed answer that contains the committed tokens in their order.

        It may be shorter than the answer, or longer. None: there is none.
        """
        ...
