"""A suffix automaton of a corpus: built once, memory-mapped, shared by any number of requests."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from outrider.core.errors import StoreError
from outrider.memories.automaton import ROOT, Automaton, SuffixStates
from outrider.memories.store import (
    SEPARATOR,
    Arrays,
    Document,
    StorePage,
    check_together,
    open_store,
    write_store,
)

KIND = "sam"
_ARRAYS = {
    **dict.fromkeys(("text", "labels", "targets", "links", "lengths", "firsts"), "int32"),
    "offsets": "int64",
}
_EACH = 1 << 14
MAX_TOKENS = 1 << 22
"""Largest number of tokens of a corpus. During construction in pure Python, an automaton needs
about 550 bytes and 2 microseconds per token."""


class FrozenAutomaton(SuffixStates):
    """The automaton of several documents, which never changes.

    The edges of a state are adjacent and sorted by token, so a step is a binary search.

    Args:
        arrays: `text [tokens]` with a separator after each document, `offsets [states + 1]` into
            `labels [edges]` and `targets [edges]`, and `links`, `lengths`, `firsts [states]`; all
            of 32-bit integers except the offsets.

    Attributes:
        text: the documents.
        nbytes: bytes of all arrays, memory-mapped or in memory.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = {name: np.ascontiguousarray(arrays[name]) for name in _ARRAYS}
        views = {name: memoryview(array) for name, array in self.arrays.items()}  # pyright: ignore[reportArgumentType]
        self.text = views["text"]
        self.links, self.lengths, self.firsts = views["links"], views["lengths"], views["firsts"]
        self._offsets, self._labels, self._targets = (
            views["offsets"],
            views["labels"],
            views["targets"],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays; of a memory-mapped one, only the parts that were read use memory."""
        return sum(array.nbytes for array in self.arrays.values())

    def target(self, state: int, token: int) -> int:
        """Return the state that `token` leads to from `state`; -1 if there is no such edge."""
        end = self._offsets[state + 1]
        at = bisect_left(self._labels, token, self._offsets[state], end)
        return self._targets[at] if at < end and self._labels[at] == token else -1

    def continuation(self, place: int, size: int) -> list[int]:
        """Return up to `size` tokens from `place`, not beyond the end of the document."""
        tokens = self.text[place : place + size].tolist()
        return tokens[: tokens.index(SEPARATOR)] if SEPARATOR in tokens else tokens

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        *,
        max_tokens: int = MAX_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> "FrozenAutomaton":
        """Build the automaton of `documents`; matches never cross a document boundary.

        Args:
            documents: token ids of each.
            max_tokens: largest total number of tokens.
            progress: called with the number of tokens added since the last call.

        Raises:
            StoreError: there are no tokens, or more than `max_tokens`.
        """
        automaton, text = Automaton(), []
        for document in documents:
            last = ROOT
            if len(text) + len(document) > max_tokens:
                raise StoreError(
                    f"the corpus has more than {max_tokens} tokens, too many for an automaton",
                    hint="Build a store of kind 'rest', or give a part of the corpus",
                )
            for begin in range(0, len(document), _EACH):
                for token in np.asarray(document[begin : begin + _EACH]).tolist():
                    text.append(token)
                    last = automaton.grow(last, token, len(text))
                if progress is not None:
                    progress(min(_EACH, len(document) - begin))
            text.append(SEPARATOR)
        if automaton.num_states == 1:
            raise StoreError("the corpus holds no token", hint="Give files with text in them")
        return cls(_arrays(automaton, text))

    def write(self, path: Path, page: StorePage, *, force: bool = False) -> None:
        """Write the automaton as a store; see `write_store`."""
        write_store(path, page, self.arrays, force=force)

    @classmethod
    def open(cls, path: Path, *, fingerprint: str | None = None) -> "FrozenAutomaton":
        """Map the store at `path` into memory; `open_store` lists the errors."""
        _, arrays = open_store(path, KIND, _ARRAYS, fingerprint=fingerprint)
        sizes = {name: len(array) for name, array in arrays.items()}
        states = sizes["offsets"] - 1
        check_together(
            path,
            states > 0
            and all(sizes[name] == states for name in ("links", "lengths", "firsts"))
            and sizes["labels"] == sizes["targets"] == int(arrays["offsets"][-1]),
        )
        return cls(arrays)


def _arrays(automaton: Automaton, text: list[int]) -> Arrays:
    """Convert the edges to arrays: state by state, sorted by token."""
    counts = np.fromiter(map(len, automaton.edges), dtype=np.int64, count=automaton.num_states)
    total = int(counts.sum())
    labels = np.fromiter(chain.from_iterable(automaton.edges), dtype=np.int64, count=total)
    targets = np.fromiter(
        chain.from_iterable(edges.values() for edges in automaton.edges),
        dtype=np.int64,
        count=total,
    )
    owners = np.repeat(np.arange(automaton.num_states), counts)
    order = np.lexsort((labels, owners))
    return {
        "text": np.array(text, dtype=np.int32),
        "offsets": np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        "labels": labels[order].astype(np.int32),
        "targets": targets[order].astype(np.int32),
        "links": np.array(automaton.links, dtype=np.int32),
        "lengths": np.array(automaton.lengths, dtype=np.int32),
        "firsts": np.array(automaton.firsts, dtype=np.int32),
    }
