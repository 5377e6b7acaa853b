"""What a model remembers of one text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from outrider.core.counters import ReadingRecord
from outrider.core.types import (
    IntArray,
)


@dataclass(slots=True)
class CacheReport:
    """How a text was read, for reports; nothing is decided by it.

    Attributes:
        vision_seconds: encoding its images.
        reading: which parts of a long input were read (`context.reading.Reading`); None: all.
        guidance: the scale of classifier-free guidance; None: there is none.
    """

    vision_seconds: float = 0.0
    reading: ReadingRecord | None = None
    guidance: float | None = None


@runtime_checkable
class Cache(Protocol):
    """What one model remembers of one text.

    `text` is the prompt and the committed output. Its last tokens, at least one, are `pending`:
    the model has not read them yet, and the first forward of a round feeds them first. Later
    forwards append speculative rows, numbered from 0 since the last commit; a row's parent is an
    earlier row, or -1 for the last token of the text.
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
        """Speculative rows since the last commit."""
        ...

    @property
    def room(self) -> int:
        """How many tokens may still follow `text` in this model's context window."""
        ...

    @property
    def horizon(self) -> int | None:
        """Generated tokens until the model itself changes; no draft crosses it. None: never."""
        ...

    @property
    def report(self) -> CacheReport:
        """How the text was read."""
        ...

    def match_prefix(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Rows that spell the longest prefix of `tokens`, never all of them: the last token is
        left to be fed (again), since its row's logits are gone."""
        ...

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens to the text. Keeps the rows that spell their longest prefix,
        drops the others, makes the remainder pending. With no tokens it forgets the round."""
        ...

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` (at least 1) tokens of the text."""
        ...

    def fork(self) -> "Cache":
        """An independent copy; storage is shared until one of the two writes."""
        ...
