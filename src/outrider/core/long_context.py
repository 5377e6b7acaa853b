"""Long inputs that a model may read in parts; a selection (`context/`) chooses the parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text, as characters and as ids. `text` is missing if there is no tokenizer."""

    text: str
    token_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class LongContext:
    """The part of a prompt that a model may read in parts (`context/`).

    Two instances are equal only if they are the same object, because data derived from an instance,
    such as the embeddings of its chunks, is stored under it.

    Attributes:
        start: index in the prompt's ids at which the first chunk begins.
        chunks: consecutive pieces without gaps: their texts and ids concatenate to the input.
        query: the instruction, that is, the question about the input.
        names: the origin of each chunk (a file); empty for a single unnamed input.
        decode: converts ids to text, to read the generated text; None without a tokenizer.
        pinned: chunks that are always read, regardless of their score.
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
        """Index in the prompt's ids at which each chunk begins, followed by the end of the last
        one."""
        return tuple(accumulate((len(chunk) for chunk in self.chunks), initial=self.start))

    @property
    def num_tokens(self) -> int:
        """Number of ids in all chunks."""
        return sum(len(chunk) for chunk in self.chunks)

    def pin(self, *chunks: int) -> "LongContext":
        """Return the same input with these chunks always read."""
        return self._with(pinned=self.pinned | self._known(chunks))

    def ban(self, *chunks: int) -> "LongContext":
        """Return the same input with these chunks never read."""
        return self._with(banned=self.banned | self._known(chunks))

    def only(self, *chunks: int) -> "LongContext":
        """Return the same input, restricted to these chunks, which are read in full."""
        kept = self._known(chunks)
        return self._with(pinned=kept, banned=frozenset(range(len(self.chunks))) - kept)

    def _with(self, **settings: frozenset[int]) -> "LongContext":
        new = replace(self, **settings)
        if both := new.pinned & new.banned:
            raise ValueError(f"chunk {min(both)} is both pinned and banned")
        return new

    def _known(self, chunks: Sequence[int]) -> frozenset[int]:
        for chunk in chunks:
            if not 0 <= chunk < len(self.chunks):
                raise ValueError(
                    f"there is no chunk {chunk}; chunks are numbered from 0 to "
                    f"{len(self.chunks) - 1}"
                )
        return frozenset(chunks)
