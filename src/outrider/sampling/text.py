"""Incremental detokenization: only complete characters are returned, and stop strings are held
back."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

Decode = Callable[[Sequence[int]], str]

_INCOMPLETE = "\ufffd"

_CONTEXT = 4
"""Number of prompt tokens that are decoded together with the first new one."""

_WINDOW = 16
"""Largest number of tokens decoded together with a new one. Each takes time, but a restart takes
more."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Special tokens, which text leaves out.

    Attributes:
        decode: converts ids to text with the special tokens.
        ids: the special tokens.
    """

    decode: Decode
    ids: frozenset[int]


class TextStream:
    """The text of one request.

    A token may end in the middle of a character, and the end of the text may be the beginning of a
    stop string. Both are held back until the next token decides.
    """

    def __init__(
        self,
        decode: Decode,
        stop: Sequence[str] = (),
        *,
        after: Sequence[int] = (),
        marks: Marks | None = None,
    ) -> None:
        """Create an empty stream.

        Args:
            decode: converts ids to text.
            stop: strings that end the text.
            after: ids of the prompt: they decide whether the text starts with a space.
            marks: given if a stop string contains a special token: stop strings are then searched
                in the text with special tokens.
        """
        self.text = ""
        self.stopped = False
        self.stopped_by: str | None = None
        """The stop string that ended the text."""
        self._decode = decode
        self._stop = tuple(stop)
        self._ids = list(after[-_CONTEXT:])
        self._before = decode(self._ids) if self._ids else ""
        if self._before.endswith(_INCOMPLETE):
            self._ids, self._before = [], ""
        self._context = 0
        self._read = len(self._ids)
        self._taken = 0
        self._closed = False
        self._marked = _Marked(marks, after) if marks is not None else None

    def branch(self) -> "TextStream":
        """Return a copy that continues independently."""
        other = copy(self)
        other._ids = list(self._ids)
        other._marked = self._marked and self._marked.branch()
        return other

    def push(self, token: int) -> bool:
        """Add a token; return true when it completes a stop string. The text then ends before that
        string."""
        self._ids.append(token)
        self._grow(final=False)
        if self._marked is not None and not self.stopped:
            self._find_marked_stop(self._marked, token)
        return self.stopped

    def take(self) -> str:
        """Return the final text that was not returned before."""
        end = len(self.text) - self._held()
        piece = self.text[self._taken : end]
        self._taken = max(self._taken, end)
        return piece

    def close(self) -> None:
        """End the stream: the remaining text becomes final, including incomplete characters."""
        self._grow(final=True)
        self._closed = True

    def _grow(self, *, final: bool) -> None:
        """Decode new tokens together with a few earlier ones, because spaces depend on neighbouring
        tokens."""
        if self.stopped:
            return
        after = self._decode(self._ids[self._context :])
        if len(after) <= len(self._before) or (after.endswith(_INCOMPLETE) and not final):
            return
        known = len(self.text)
        self.text += after[len(self._before) :]
        self._move_on(after)
        if self._marked is None:
            self._find_stop(self.text, known)

    def _move_on(self, decoded: str) -> None:
        """Mark all tokens as read; if the window is long, keep only its newest part."""
        before, self._read = self._read, len(self._ids)
        self._before = decoded
        if self._read - self._context > _WINDOW:
            self._context = before
            self._before = self._decode(self._ids[before:])

    def _find_stop(self, text: str, known: int) -> int | None:
        """Find the first stop string that ends behind `known`; cut the text there."""
        longest = max((len(stop) for stop in self._stop), default=0)
        start = max(known - longest + 1, 0)
        hits = [(at, stop) for stop in self._stop if (at := text.find(stop, start)) >= 0]
        if not hits:
            return None
        first, self.stopped_by = min(hits)
        self.stopped = True
        if self._marked is None:
            self.text = self.text[:first]
        return first

    def _find_marked_stop(self, marked: "_Marked", token: int) -> None:
        known = len(marked.text)
        marked.push(token, len(self.text))
        at = self._find_stop(marked.text, known)
        if at is not None:
            self.text = self.text[: marked.visible(at)]

    def _held(self) -> int:
        """Return the length of the longest suffix of the text that is a prefix of a stop string."""
        if self.stopped or self._closed:
            return 0
        text = self.text if self._marked is None else self._marked.text
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                if self._marked is None:
                    return size
                return len(self.text) - self._marked.visible(len(text) - size)
        return 0


class _Marked:
    """The text with special tokens, and where each of its characters lies in the text without."""

    def __init__(self, marks: Marks, after: Sequence[int]) -> None:
        self._special = marks.ids
        self._stream = TextStream(marks.decode, after=after)
        self._tokens: list[int] = []
        self._ends: list[int] = []
        self._visible: list[int] = []

    @property
    def text(self) -> str:
        """The text with special tokens."""
        return self._stream.text

    def branch(self) -> "_Marked":
        """Return a copy that continues independently."""
        other = copy(self)
        other._stream = self._stream.branch()
        other._tokens, other._ends = list(self._tokens), list(self._ends)
        other._visible = list(self._visible)
        return other

    def push(self, token: int, visible: int) -> None:
        """Add a token; `visible` is the length of the text without special tokens after it."""
        self._stream.push(token)
        self._tokens.append(token)
        self._ends.append(len(self.text))
        self._visible.append(visible)

    def visible(self, at: int) -> int:
        """Return the place in the text without special tokens for a place in this text."""
        token = bisect_right(self._ends, at)
        begin, before = (self._ends[token - 1], self._visible[token - 1]) if token else (0, 0)
        if token >= len(self._tokens) or self._tokens[token] in self._special:
            return before
        return min(before + at - begin, self._visible[token])
