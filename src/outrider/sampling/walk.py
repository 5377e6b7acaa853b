"""Which tokens a grammar allows after a text, for any text of one request.

Draft models, trees and the target ask about different continuations of the same text. A walk owns
one matcher and moves it: back to the common beginning with the text that is asked about, then
forward. What it answers depends on the text only, so that drafted and undrafted decoding see the
same masks, and a preempted request continues with nothing but its text.

End tokens are never given to a matcher. They are allowed exactly where it accepts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from outrider.core.types import IntArray

Allowed = NDArray[np.bool_]
"""`[vocab]`: whether each token may follow."""


@runtime_checkable
class Matcher(Protocol):
    """A grammar at a place of a text, which begins empty."""

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        ...

    def advance(self, tokens: Sequence[int]) -> int:
        """Move over tokens as far as the grammar allows them; return how many these are."""
        ...

    def retreat(self, count: int) -> None:
        """Move back over the last `count` tokens."""
        ...

    def admits(self, tokens: Sequence[int]) -> int:
        """Return how many of these tokens the grammar allows next, without moving."""
        ...

    def allowed(self) -> Allowed:
        """Return the tokens that may follow, without end tokens. The array is not changed later."""
        ...

    def forced(self) -> list[int]:
        """Return the usual tokens of the bytes that must follow."""
        ...

    def fork(self) -> "Matcher":
        """Return a matcher at the same place that moves by itself."""
        ...


@runtime_checkable
class Grammar(Protocol):
    """A compiled grammar."""

    def begin(self) -> Matcher:
        """Return a matcher at the beginning of a text."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What may follow a text.

    Attributes:
        tokens: the tokens that may follow, without end tokens.
        count: their number.
        accepting: whether the text may end.
        single: the only token that may follow where the text may not end; None otherwise.
    """

    tokens: Allowed
    count: int
    accepting: bool
    single: int | None


@dataclass(slots=True)
class Walk:
    """A matcher that is moved to the text that is asked about.

    Attributes:
        matcher: the matcher, at the end of `path`.
        path: the tokens that it has read.
    """

    matcher: Matcher
    path: list[int] = field(default_factory=list)
    _known: Options | None = None

    def after(self, generated: Sequence[int] | IntArray) -> Options | None:
        """Return what may follow the generated tokens; None if they are no text of the grammar, as
        behind a refused draft or an end token."""
        if not self._move(generated):
            return None
        if self._known is None:
            tokens, accepting = self.matcher.allowed(), self.matcher.accepting
            count = int(np.count_nonzero(tokens))
            single = int(tokens.argmax()) if count == 1 and not accepting else None
            self._known = Options(tokens, count, accepting, single)
        return self._known

    def admits(self, generated: Sequence[int] | IntArray, tokens: Sequence[int]) -> int:
        """Return how many of `tokens` the grammar allows after the generated ones."""
        return self.matcher.admits(tokens) if self._move(generated) else 0

    def accepts(self, generated: Sequence[int] | IntArray) -> bool:
        """Whether the text may end after the generated tokens."""
        return self._move(generated) and self.matcher.accepting

    def forced(self, generated: Sequence[int]) -> list[int]:
        """Return the usual tokens of the bytes that must follow the generated ones."""
        return self.matcher.forced() if self._move(generated) else []

    def fork(self) -> "Walk":
        """Return a walk that moves by itself."""
        return Walk(self.matcher.fork(), list(self.path), self._known)

    def _move(self, generated: Sequence[int] | IntArray) -> bool:
        """Move to the end of a text; return whether the grammar allows it."""
        path = self.path
        text = generated if isinstance(generated, list) else [int(t) for t in generated]
        if text[: len(path)] != path:
            same = next(
                (i for i, (a, b) in enumerate(zip(path, text, strict=False)) if a != b), None
            )
            same = min(len(path), len(text)) if same is None else same
            self.matcher.retreat(len(path) - same)
            del path[same:]
            self._known = None
        if len(text) > len(path):
            more = text[len(path) :]
            moved = self.matcher.advance(more)
            path += more[:moved]
            self._known = None
            return moved == len(more)
        return True
