"""The cache of a model that selects: that of the model inside, and what it holds at the moment."""

from collections.abc import Sequence
from dataclasses import replace

from outrider.context.layout import Spans, spans_of
from outrider.context.reading import Reading
from outrider.context.selection import Selection
from outrider.core.types import Fresh, IntArray, Passage, Piece, Prompt
from outrider.protocols import Cache


class SelectedCache:
    """A `Cache` whose text is the head of a prompt, its chosen chunks, and all that follows them.

    Attributes:
        inner: the cache of the model inside. Only its text is shorter than the prompt.
        prompt: the whole prompt.
        selection: what is chosen.
        reading: what is reported of it, also in `report`.
        compact: whether its positions are numbered without gaps.
        longest: most prompt tokens that it may come to hold.
        every: generated tokens between two looks; 0 looks never again.
        held: prompt tokens that its text begins with.
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
        self.report = replace(inner.report, reading=reading)
        self.compact = compact
        self.longest = longest
        self.every = every
        self._looked = 0
        self.note_held()

    # -- what is selected -------------------------------------------------------------------

    @property
    def generated(self) -> Sequence[int]:
        """What was written since the prompt."""
        return self.inner.text[self.held :]

    @property
    def whole(self) -> list[int]:
        """The whole prompt and what was written: ids by place."""
        return [*self.prompt.token_ids, *self.generated]

    @property
    def spans(self) -> Spans:
        """The places that its text spells."""
        context = self.selection.context
        length = len(self.prompt) + len(self.inner.text) - self.held
        return spans_of(context, self.selection.chosen, length)

    @property
    def horizon(self) -> int | None:
        """Generated tokens until the next look; 0 when it is due, None when there is none."""
        if not self.every:
            return None
        written = len(self.inner.text) - self.held
        return max(self._looked + self.every - written, 0)

    def recent(self) -> tuple[int, Passage]:
        """How many tokens were written when the look fell due, and the last of them."""
        generated, context = self.generated, self.selection.context
        due = len(generated) // self.every * self.every
        ids = tuple(generated[max(due - self.selection.config.query_window, 0) : due])
        return due, Passage(context.decode(ids) if context.decode else "", ids)

    def note_look(self, due: int) -> None:
        """Note that a look has been taken; the next one falls due later."""
        self._looked = due
        self.reading.refreshes += 1

    def note_held(self) -> None:
        """Note how many prompt tokens the choice of the moment has, and how many rows there are."""
        context, reading = self.selection.context, self.reading
        chosen = sum(len(context.chunks[i]) for i in self.selection.chosen)
        self.held = reading.held_tokens = len(self.prompt) - context.num_tokens + chosen
        self.note_rows()

    def note_swap(self, pieces: Sequence[Piece]) -> None:
        """Note what a swap has left, and how much was read for it."""
        fresh = sum(len(piece.token_ids) for piece in pieces if isinstance(piece, Fresh))
        self.reading.recomputed += fresh
        self.note_held()

    def note_rows(self) -> None:
        """Note the rows held, if they are more than ever."""
        rows = len(self.inner.text) + self.inner.num_speculative
        self.reading.kv_tokens = max(self.reading.kv_tokens, rows)

    # -- a cache ----------------------------------------------------------------------------

    @property
    def text(self) -> Sequence[int]:
        """What is read of the prompt, and committed output."""
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
    def room(self) -> int:
        """Tokens that may still follow the text, whatever is chosen later."""
        spare = self.longest - self.held if self.compact else 0
        return self.inner.room - spare

    def match_prefix(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Rows that spell the longest proper prefix of `tokens`."""
        return self.inner.match_prefix(tokens)

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens to the text."""
        self.inner.commit(tokens)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens of the text, none of the prompt's."""
        if length < self.held:
            raise ValueError(f"the prompt holds {self.held} tokens, not {length}")
        self.inner.truncate(length)

    def fork(self) -> "SelectedCache":
        """An independent copy that chooses for itself from now on."""
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
