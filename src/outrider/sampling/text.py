"""Incremental detokenization: only complete characters are returned, and stop strings are held
back."""

from collections.abc import Callable, Sequence
from copy import copy

Decode = Callable[[Sequence[int]], str]

_INCOMPLETE = "\ufffd"

_CONTEXT = 4
"""Number of prompt tokens that are decoded together with the first new one."""

_WINDOW = 16
"""Largest number of tokens decoded together with a new one. Each takes time, but a restart takes
more."""


class TextStream:
    """The text of one request.

    A token may end in the middle of a character, and the end of the text may be the beginning of a
    stop string. Both are held back until the next token decides.
    """

    def __init__(
        self, decode: Decode, stop: Sequence[str] = (), *, after: Sequence[int] = ()
    ) -> None:
        """Create an empty stream. `after` are the prompt's ids: they decide whether the text starts
        with a space."""
        self.text = ""
        self.stopped = False
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

    def branch(self) -> "TextStream":
        """Return a copy that continues independently."""
        other = copy(self)
        other._ids = list(self._ids)
        return other

    def push(self, token: int) -> bool:
        """Add a token; return true when it completes a stop string. The text then ends before that
        string."""
        self._ids.append(token)
        self._grow(final=False)
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
        self._find_stop(known)

    def _move_on(self, decoded: str) -> None:
        """Mark all tokens as read; if the window is long, keep only its newest part."""
        before, self._read = self._read, len(self._ids)
        self._before = decoded
        if self._read - self._context > _WINDOW:
            self._context = before
            self._before = self._decode(self._ids[before:])

    def _find_stop(self, known: int) -> None:
        longest = max((len(stop) for stop in self._stop), default=0)
        start = max(known - longest + 1, 0)
        hits = [at for stop in self._stop if (at := self.text.find(stop, start)) >= 0]
        if hits:
            self.text = self.text[: min(hits)]
            self.stopped = True

    def _held(self) -> int:
        """Return the length of the longest suffix of the text that is a prefix of a stop string."""
        if self.stopped or self._closed:
            return 0
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self._stop):
                return size
        return 0
