"""The cache of a guided model: one text, read with its images and without."""

from collections.abc import Sequence
from dataclasses import replace

from outrider.core.types import IntArray
from outrider.protocols import Cache


class GuidedCache:
    """A `Cache` made of two caches that are fed, committed and truncated together.

    Attributes:
        seen: the cache of the prompt with its images; attributes of the pair are taken from it.
        unseen: the cache of the same prompt with blank images.
        report: figures of the reading, and the scale.
    """

    def __init__(self, seen: Cache, unseen: Cache, guidance: float) -> None:
        self.seen = seen
        self.unseen = unseen
        self.guidance = guidance
        self.report = replace(seen.report, guidance=guidance)

    @property
    def text(self) -> Sequence[int]:
        """Prompt and committed output, as read with images."""
        return self.seen.text

    @property
    def pending(self) -> Sequence[int]:
        """Tokens of the text without a committed row."""
        return self.seen.pending

    @property
    def fed(self) -> bool:
        """Whether `pending` has been read since the last commit."""
        return self.seen.fed

    @property
    def num_speculative(self) -> int:
        """Speculative rows since the last commit; equal in both caches."""
        return self.seen.num_speculative

    @property
    def remaining(self) -> int:
        """Tokens that may still follow both texts."""
        return min(self.seen.remaining, self.unseen.remaining)

    @property
    def horizon(self) -> int | None:
        """Generated tokens until either model changes."""
        return min(
            (h for h in (self.seen.horizon, self.unseen.horizon) if h is not None), default=None
        )

    def match_prefix(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Return the rows that match the longest proper prefix of `tokens`."""
        return self.seen.match_prefix(tokens)

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens to both texts."""
        self.seen.commit(tokens)
        self.unseen.commit(tokens)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all speculative rows of both caches but `rows`."""
        self.seen.keep_rows(rows)
        self.unseen.keep_rows(rows)

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens of the text, and cut the other text by the same number."""
        gone = len(self.seen.text) - length
        left = len(self.unseen.text) - gone
        if gone < 0 or length < 1 or left < 1:
            raise ValueError(f"length must be from 1 to {len(self.seen.text)}, got {length}")
        self.seen.truncate(length)
        self.unseen.truncate(left)

    def fork(self) -> "GuidedCache":
        """Return an independent copy; storage is shared until one of the two writes."""
        return GuidedCache(self.seen.fork(), self.unseen.fork(), self.guidance)
