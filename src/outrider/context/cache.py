"""The cache of a model that reads a selection: the inner cache, and the current selection."""

from collections.abc import Sequence
from dataclasses import replace

from outrider.context.layout import Spans, spans_of
from outrider.context.reading import Reading
from outrider.context.selection import Selection
from outrider.core.types import Fresh, IntArray, Passage, Piece, Prompt
from outrider.protocols import Cache, CacheReport


class SelectedCache:
    """A `Cache` whose text is the head of a prompt, its chosen chunks, and everything after them.

    Attributes:
        inner: the cache of the inner model. Only its text is shorter than the prompt.
        prompt: the whole prompt.
        selection: the chosen chunks.
        reading: the record for reports, also in `report`.
        compact: whether positions are numbered without gaps.
        longest: largest number of prompt tokens that it may hold.
        every: generated tokens between two refreshes; 0 means no refresh.
        held: number of prompt tokens at the start of its text.
    """

    def __init__(
        self,
        inner: Cache,
        prompt: Prompt,
        selection: Selection,
        reading: Reading,
        *,
        compact: bool,
        longest: int,
        every: int,
    ) -> None:
        self.inner = inner
        self.prompt = prompt
        self.selection = selection
        self.reading = reading
        self.compact = compact
        self.longest = longest
        self.every = every
        self._looked = 0
        self.note_held()

    # -- selection --------------------------------------------------------------------------

    @property
    def generated(self) -> Sequence[int]:
        """Tokens generated after the prompt."""
        return self.inner.text[self.held :]

    @property
    def whole(self) -> list[int]:
        """Return the ids of the whole prompt and the generated tokens, by place."""
        return [*self.prompt.token_ids, *self.generated]

    @property
    def spans(self) -> Spans:
        """Return the places of the tokens in the text."""
        context = self.selection.context
        length = len(self.prompt) + len(self.inner.text) - self.held
        return spans_of(context, self.selection.chosen, length)

    @property
    def report(self) -> CacheReport:
        """How the inner cache was read, and which parts of the prompt."""
        return replace(self.inner.report, reading=self.reading)

    @property
    def horizon(self) -> int | None:
        """Generated tokens until the next refresh, or until the inner model changes; 0 if a refresh
        is due, None if there is neither."""
        inner = self.inner.horizon
        if not self.every:
            return inner
        written = len(self.inner.text) - self.held
        own = max(self._looked + self.every - written, 0)
        return own if inner is None else min(own, inner)

    def recent(self) -> tuple[int, Passage]:
        """Return how many tokens were generated when the refresh became due, and the last ones."""
        generated, context = self.generated, self.selection.context
        due = len(generated) // self.every * self.every
        ids = tuple(generated[max(due - self.selection.config.query_window, 0) : due])
        return due, Passage(context.decode(ids) if context.decode else "", ids)

    def note_look(self, due: int) -> None:
        """Record that a refresh is done; the next one becomes due later."""
        self._looked = due
        self.reading.refreshes += 1

    def note_held(self) -> None:
        """Record the number of prompt tokens in the current selection, and the number of rows."""
        context, reading = self.selection.context, self.reading
        chosen = sum(len(context.chunks[i]) for i in self.selection.chosen)
        self.held = reading.held_tokens = len(self.prompt) - context.num_tokens + chosen
        self.note_rows()

    def note_swap(self, pieces: Sequence[Piece]) -> None:
        """Record the pieces after a swap, and the number of tokens read for it."""
        fresh = sum(len(piece.token_ids) for piece in pieces if isinstance(piece, Fresh))
        self.reading.recomputed += fresh
        self.note_held()

    def note_rows(self) -> None:
        """Record the number of rows if it is a new maximum."""
        rows = len(self.inner.text) + self.inner.num_speculative
        self.reading.kv_tokens = max(self.reading.kv_tokens, rows)

    # -- cache ------------------------------------------------------------------------------

    @property
    def text(self) -> Sequence[int]:
        """Selected tokens of the prompt, and committed output."""
        return self.inner.text

    @property
    def pending(self) -> Sequence[int]:
        """Tokens of the text without a committed row."""
        return self.inner.pending

    @property
    def fed(self) -> bool:
        """Whether `pending` has been read since the last commit."""
        return self.inner.fed

    @property
    def num_speculative(self) -> int:
        """Speculative rows since the last commit."""
        return self.inner.num_speculative

    @property
    def remaining(self) -> int:
        """Tokens that may still follow the text, for any later selection."""
        spare = self.longest - self.held if self.compact else 0
        return self.inner.remaining - spare

    def match_prefix(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Return the rows that match the longest proper prefix of `tokens`."""
        return self.inner.match_prefix(tokens)

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens to the text."""
        self.inner.commit(tokens)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all speculative rows but `rows`."""
        self.inner.keep_rows(rows)

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens of the text; the prompt cannot be cut."""
        if length < self.held:
            raise ValueError(f"the prompt holds {self.held} tokens, not {length}")
        self.inner.truncate(length)

    def fork(self) -> "SelectedCache":
        """Return an independent copy with its own selection from now on."""
        selection = self.selection.fork()
        twin = SelectedCache(
            self.inner.fork(),
            self.prompt,
            selection,
            self.reading.of(selection),
            compact=self.compact,
            longest=self.longest,
            every=self.every,
        )
        twin._looked = self._looked
        return twin
