"""What one reading of a denoiser computes, reads and keeps, checked before the forward."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outrider.core.errors import ContextError
from outrider.core.types import IntArray
from outrider.models.denoisers.store import DenoiserStore, Owner
from outrider.protocols.denoiser import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One reading, as the forward needs it.

    Attributes:
        tokens: the ids of the computed rows `[rows]`.
        rows: the computed positions, ascending.
        take: for each wanted position, the index among `rows` of the row that predicts it.
        stored: the positions that are read from the store, ascending; none of them is in `rows`.
        store: the store; None: nothing is read or kept.
        keep: the positions that are kept, ascending.
        kept: the indices of `keep` among `rows`.
    """

    tokens: IntArray
    rows: IntArray
    take: IntArray
    stored: IntArray
    store: DenoiserStore | None
    keep: IntArray
    kept: IntArray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Plans of equal shape share one batch."""
        return len(self.rows), len(self.stored), len(self.take)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a model allows: its name, vocabulary, window, and whether its rows are shifted."""

    name: str
    vocab_size: int
    context_length: int
    shifted: bool
    owner: Owner


def planned(reading: Reading, limits: Limits) -> Plan:
    """Check a reading and work out what it computes.

    A shifted model predicts position i from row i - 1, which is computed too; position 0 keeps its
    own row.

    Raises:
        ContextError: the text is longer than the window.
        ValueError: ids or positions that are out of range or not ascending, `want` or `keep` not
            among `rows`, `keep` without a store, or a store of another model or length.
    """
    ids = np.asarray(reading.ids, dtype=np.int64)
    length = len(ids)
    if length > limits.context_length:
        raise ContextError(
            f"a text of {length} tokens does not fit into the {limits.context_length} positions "
            f"of {limits.name}",
            hint="Shorten the prompt or the answer",
        )
    if length and not (ids.min() >= 0 and ids.max() < limits.vocab_size):
        raise ValueError(f"ids outside the {limits.vocab_size} tokens of {limits.name}")
    given = _positions("rows", np.arange(length) if reading.rows is None else reading.rows, length)
    want = _positions("want", reading.want, length)
    keep = _positions("keep", () if reading.keep is None else reading.keep, length)
    for name, part in (("want", want), ("keep", keep)):
        if len(part) and not np.isin(part, given).all():
            raise ValueError(f"{name} holds positions that are not among rows")
    sources = np.maximum(want - 1, 0) if limits.shifted else want
    rows = np.union1d(given, sources) if limits.shifted else given
    store = _own_store(reading, limits, length)
    stored = rows[:0]
    if store is not None and store.valid.any():
        others = store.valid.copy()
        others[rows] = False
        stored = np.flatnonzero(others)
    return Plan(
        tokens=ids[rows],
        rows=rows,
        take=np.searchsorted(rows, sources),
        stored=stored,
        store=store,
        keep=keep,
        kept=np.searchsorted(rows, keep),
    )


def check_keepers(plans: Sequence[Plan]) -> None:
    """Raise `ValueError` if a reading keeps rows in a store that another one uses too."""
    used = [id(plan.store) for plan in plans if plan.store is not None]
    for plan in plans:
        if len(plan.keep) and used.count(id(plan.store)) > 1:
            raise ValueError("a reading keeps rows in a store that another reading uses")


def _positions(name: str, given: Sequence[int] | IntArray, length: int) -> IntArray:
    found = np.asarray(given, dtype=np.int64)
    if len(found) and (found[0] < 0 or found[-1] >= length):
        raise ValueError(f"{name} holds positions outside a text of {length}")
    if len(found) > 1 and not (np.diff(found) > 0).all():
        raise ValueError(f"{name} is not ascending")
    return found


def _own_store(reading: Reading, limits: Limits, length: int) -> DenoiserStore | None:
    store = reading.store
    if store is None:
        if reading.keep is not None and len(reading.keep):
            raise ValueError("keep needs a store")
        return None
    if not isinstance(store, DenoiserStore) or store.owner is not limits.owner:
        raise ValueError(f"the store is not one of {limits.name}")
    if store.length != length:
        raise ValueError(f"a store for {store.length} positions, and a text of {length}")
    return store
