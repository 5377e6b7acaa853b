"""The cache of a guided model: one text, as several sources have read it."""

from collections.abc import Sequence
from dataclasses import replace

from outrider.core.tree import matched
from outrider.core.types import NO_IDS, IntArray, as_ids
from outrider.protocols import Cache, CacheReport, Segment


class MixedCache:
    """A `Cache` made of one cache for each source; all get the same tokens.

    A source need not read every row: it is behind then, and reads what it lacks with the next rows
    that it is asked for.

    Attributes:
        sources: the caches; the text is that of the first one, the base.
    """

    def __init__(self, sources: Sequence[Cache], guidance: float | str) -> None:
        self.sources = tuple(sources)
        self.guidance = guidance
        self._prompt = len(self.sources[0].text)
        self._fed = False
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._read = [0] * len(self.sources)

    @property
    def report(self) -> CacheReport:
        """Figures of the reading of the base, the guidance, and the bytes of all sources."""
        reports = [cache.report for cache in self.sources]
        total = sum(report.kv_bytes for report in reports)
        return replace(reports[0], guidance=self.guidance, kv_bytes=total)

    @property
    def text(self) -> Sequence[int]:
        """Prompt and committed output, as the base reads them."""
        return self.sources[0].text

    @property
    def pending(self) -> Sequence[int]:
        """Tokens of the text that no source has read."""
        return min((cache.pending for cache in self.sources), key=len)

    @property
    def fed(self) -> bool:
        """Whether a source has read `pending` since the last commit."""
        return self._fed

    @property
    def num_speculative(self) -> int:
        """Speculative rows since the last commit."""
        return len(self._tokens)

    @property
    def remaining(self) -> int:
        """Tokens that may still follow all texts."""
        return min(cache.remaining for cache in self.sources)

    @property
    def horizon(self) -> int | None:
        """Generated tokens until one of the models changes."""
        horizons = (cache.horizon for cache in self.sources)
        return min((h for h in horizons if h is not None), default=None)

    def written(self, row: int) -> tuple[int, ...]:
        """Return the generated tokens up to and including speculative row `row` (-1: none)."""
        path: list[int] = []
        while row >= 0:
            path.append(self._tokens[row])
            row = self._parents[row]
        return (*self.text[self._prompt :], *reversed(path))

    def match_prefix(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Return the rows that match the longest proper prefix of `tokens`."""
        return matched(self._tokens, self._parents, tokens[:-1])

    def append(self, segment: Segment) -> None:
        """Note the rows of a segment, before any source reads them."""
        old, new = len(self._tokens), segment.tokens.tolist()
        parents = segment.parents
        self._parents += range(old - 1, old + len(new) - 1) if parents is None else parents.tolist()
        self._tokens += new
        self._fed = True

    def unread(self, source: int) -> Segment:
        """Return what a source has not read yet, and count it as read."""
        start = self._read[source]
        self._read[source] = len(self._tokens)
        tokens, parents = self._tokens[start:], self._parents[start:]
        is_chain = parents == list(range(start - 1, start + len(tokens) - 1))
        return Segment(
            self.sources[source],
            as_ids(tokens) if tokens else NO_IDS,
            None if is_chain else as_ids(parents),
        )

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens to all texts."""
        for cache in self.sources:
            cache.commit(tokens)
        self._forget_round()

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all speculative rows but `rows`, ascending, whose parents must be among them."""
        number = {-1: -1} | {row: i for i, row in enumerate(rows)}
        parents = [number[self._parents[row]] for row in rows]
        for i, cache in enumerate(self.sources):
            kept = [row for row in rows if row < self._read[i]]
            cache.keep_rows(kept)
            self._read[i] = len(kept)
        self._tokens, self._parents = [self._tokens[row] for row in rows], parents

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens of the text, and cut as many of the other texts."""
        gone = len(self.text) - length
        left = [len(cache.text) - gone for cache in self.sources]
        if gone < 0 or min(left) < 1:
            raise ValueError(f"length must be from 1 to {len(self.text)}, got {length}")
        for cache, rest in zip(self.sources, left, strict=True):
            cache.truncate(rest)
        self._prompt = min(self._prompt, length)
        self._forget_round()

    def fork(self) -> "MixedCache":
        """Return an independent copy; storage is shared until one of the two writes."""
        twin = MixedCache([cache.fork() for cache in self.sources], self.guidance)
        twin._prompt, twin._fed = self._prompt, self._fed
        twin._tokens, twin._parents = [*self._tokens], [*self._parents]
        twin._read = [*self._read]
        return twin

    def _forget_round(self) -> None:
        self._fed = False
        self._tokens, self._parents = [], []
        self._read = [0] * len(self.sources)
