"""Inputs that may be read in parts: what a selection (`context/`) chooses from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text, as characters and as ids. Without a tokenizer there is no `text`."""

    text: str
    token_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class LongContext:
    """The part of a prompt that a model may read in parts (`context/`).

    Two of them are equal only if they are the same object: what was learned of one, such as the
    embeddings of its chunks, is kept with it.

    Attributes:
        start: where in the prompt's ids the first chunk begins.
        chunks: they follow each other without gaps: texts and ids concatenate to the input.
        query: what is asked of it: the instruction.
        names: what each chunk is from (a file); empty for a single nameless input.
        decode: ids to text, to know what is being written; None where there is no tokenizer.
        pinned: chunks that are always read, whatever their score.
        banned: chunks that are never read.
    """

    start: int
    chunks: tuple[Passage, ...]
    query: Passage
    names: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None
    pinned: frozenset[int] = frozenset()
    banned: frozenset[int] = frozenset()

    @property
    def starts(self) -> tuple[int, ...]:
        """Where in the prompt's ids each chunk begins, and after the last one where it ends."""
        return tuple(accumulate((len(chunk) for chunk in self.chunks), initial=self.start))

    @property
    def num_tokens(self) -> int:
        """Ids in all chunks."""
        return sum(len(chunk) for chunk in self.chunks)

    def pin(self, *chunks: int) -> "LongContext":
        """The same input with these chunks always read."""
        return self._with(pinned=self.pinned | self._known(chunks))

    def ban(self, *chunks: int) -> "LongContext":
        """The same input with these chunks never read."""
        return self._with(banned=self.banned | self._known(chunks))

    def only(self, *chunks: int) -> "LongContext":
        """The same input, of which exactly these chunks are read, from beginning to end."""
        kept = self._known(chunks)
        return self._with(pinned=kept, banned=frozenset(range(len(self.chunks))) - kept)

    def _with(self, **settings: frozenset[int]) -> "LongContext":
        new = replace(self, **settings)
        if both := new.pinned & new.banned:
            raise ValueError(f"chunk {min(both)} is to be read always, and never")
        return new

    def _known(self, chunks: Sequence[int]) -> frozenset[int]:
        for chunk in chunks:
            if not 0 <= chunk < len(self.chunks):
                raise ValueError(
                    f"there is no chunk {chunk}: they go from 0 to {len(self.chunks) - 1}"
                )
        return frozenset(chunks)
