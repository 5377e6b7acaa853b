"""The cache of one model for one text: key-value rows, or an equivalent state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from outrider.core.counters import ReadingRecord
from outrider.core.types import (
    IntArray,
)


@dataclass(slots=True)
class CacheReport:
    """How a text was read. It is used in reports only and does not influence decoding.

    Attributes:
        vision_seconds: wall-clock seconds spent on encoding the images.
        reading: which parts of a long input were read (`context.reading.Reading`); None: all of it.
        guidance: the scale of classifier-free guidance, or another guidance method with its
            options; None: no guidance is used.
        kv_policy: the policy that drops rows of the cache, with its options; empty: all are kept.
        kv_bytes: bytes that a cache under a policy takes now; 0 without one.
    """

    vision_seconds: float = 0.0
    reading: ReadingRecord | None = None
    guidance: float | str | None = None
    kv_policy: str = ""
    kv_bytes: int = 0


@runtime_checkable
class Cache(Protocol):
    """The cache of one model for one text.

    `text` is the prompt followed by the committed output. Its last tokens, at least one, are
    `pending`: the model has not read them yet, and the first forward of a round reads them first.
    Later forwards append speculative rows, numbered from 0 since the last commit. The parent of a
    row is an earlier row, or -1 for the last token of the text.
    """

    @property
    def text(self) -> Sequence[int]:
        """Prompt and committed output, as this model reads them."""
        ...

    @property
    def pending(self) -> Sequence[int]:
        """The last tokens of `text`, which have no committed row; at least one."""
        ...

    @property
    def fed(self) -> bool:
        """Whether a forward has read `pending` since the last commit."""
        ...

    @property
    def num_speculative(self) -> int:
        """Number of speculative rows since the last commit."""
        ...

    @property
    def remaining(self) -> int:
        """How many more tokens fit after `text` in this model's context window."""
        ...

    @property
    def horizon(self) -> int | None:
        """Number of generated tokens until the model itself changes, for example because it selects
        other parts of its prompt. No draft goes past this point. None: the model never changes."""
        ...

    @property
    def report(self) -> CacheReport:
        """How the text was read, for reports."""
        ...

    def match_prefix(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Return the indices of the rows that match the longest prefix of `tokens`. The match never
        covers all of `tokens`: the last token is always fed (again), because the logits of its row
        are not stored.
        """
        ...

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens to the text. The rows that match the longest prefix of `tokens` are
        kept, the other speculative rows are dropped, and the remaining tokens become pending. With
        no tokens, all speculative rows of the round are dropped."""
        ...

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all speculative rows but `rows` (ascending numbers), which are numbered anew from 0.
        The parents of a row must be among them, or -1; else `KeyError`."""
        ...

    def truncate(self, length: int) -> None:
        """Drop everything after the first `length` (at least 1) tokens of the text."""
        ...

    def fork(self) -> "Cache":
        """Return an independent copy; the storage is shared until one of the two caches is
        written."""
        ...
