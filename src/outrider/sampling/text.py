"""Token ids to text, as they arrive: whole characters only, stop strings held back."""

from collections.abc import Callable, Sequence
from copy import copy

Decode = Callable[[Sequence[int]], str]

_INCOMPLETE = "\ufffd"

_CONTEXT = 4
"""Prompt tokens decoded along with the first new one."""

_WINDOW = 16
"""Tokens decoded along with a new one at most: each costs time, but to begin anew costs more."""


class TextStream:
    """The text of one request.

    A token may end in the middle of a character, and text may turn out to be the beginning of a
    stop string. Both are kept back until the next token decides.
    """

    def __init__(
        self, decode: Decode, stop: Sequence[str] = (), *, after: Sequence[int] = ()
    ) -> None:
        """Start empty. `after` are the prompt's ids: they decide whether a space comes first."""
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
        """A copy that goes on by itself."""
        other = copy(self)
        other._ids = list(self._ids)
        return other

    def push(self, token: int) -> bool:
        """Take one more token; true when it completes a stop string, before which the text ends."""
        self._ids.append(token)
        self._grow(final=False)
        return self.stopped

    def take(self) -> str:
        """Text that is certain and was not taken before."""
        end = len(self.text) - self._held()
        piece = self.text[self._taken : end]
        self._taken = max(self._taken, end)
        return piece

    def close(self) -> None:
        """No token follows: the rest of the text is certain now, broken characters included."""
        self._grow(final=True)
        self._closed = True

    def _grow(self, *, final: bool) -> None:
        """Decode what is new. A few earlier ids go along: spaces depend on the neighbour."""
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
        """Count everything as read; forget all but the newest part once it is long."""
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
        """Length of the longest end of the text that begins a stop string."""
        if self.stopped or self._closed:
            return 0
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self._stop):
                return size
        return 0
