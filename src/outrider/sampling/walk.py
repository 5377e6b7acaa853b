"""Which tokens a grammar allows after a text, for any text of one request.

Draft models, trees and the target ask about different continuations of the same text. A walk owns
one matcher and moves it: back to the common beginning with the text that is asked about, then
forward. What it answers depends on the text only, so that drafted and undrafted decoding see the
same masks, and a preempted request continues with nothing but its text.

End tokens are never given to a matcher. They are allowed exactly where it accepts.

Where the next bytes are certain, several tokens may spell them. An engine may then allow only the
usual one (llguidance does). What may follow is what `allowed` says; `admits` says what the grammar
can read, which is more in such places, and nothing else anywhere else.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from outrider.core.types import IntArray

Allowed = NDArray[np.bool_]
"""`[vocab]`: whether each token may follow."""

MASK_SECONDS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Upper bounds of the classes in which times of masks are counted."""


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
        """Return how many of these tokens the grammar can read next, without moving."""
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
class MaskTimes:
    """How long it took to find the tokens that may follow.

    Attributes:
        counts: masks by time: of each class of `MASK_SECONDS`, and beyond the last.
        seconds: of all masks together.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(MASK_SECONDS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a mask."""
        self.counts[bisect_left(MASK_SECONDS, seconds)] += 1
        self.seconds += seconds


@dataclass(slots=True)
class Walk:
    """A matcher that is moved to the text that is asked about.

    Its methods raise `GrammarError` where the grammar cannot be followed further.

    Attributes:
        matcher: the matcher, at the end of `path`.
        path: the tokens that it has read.
        times: where the times of masks are counted; None: nowhere.
    """

    matcher: Matcher
    path: list[int] = field(default_factory=list)
    times: MaskTimes | None = None
    _known: Options | None = None
    _forced: list[int] | None = None

    def after(self, generated: Sequence[int] | IntArray) -> Options | None:
        """Return what may follow the generated tokens; None if they are no text of the grammar, as
        behind a refused draft or an end token."""
        if not self._move(generated):
            return None
        if self._known is None:
            begun = perf_counter()
            tokens, accepting = self.matcher.allowed(), self.matcher.accepting
            if self.times is not None:
                self.times.add(perf_counter() - begun)
            count = int(np.count_nonzero(tokens))
            single = int(tokens.argmax()) if count == 1 and not accepting else None
            self._known = Options(tokens, count, accepting, single)
        return self._known

    def admits(self, generated: Sequence[int] | IntArray, tokens: Sequence[int]) -> int:
        """Return how many of `tokens` the grammar can read after the generated ones."""
        return self.matcher.admits(tokens) if self._move(generated) else 0

    def allows(self, generated: Sequence[int] | IntArray, token: int) -> bool:
        """Return whether `token`, which is no end token, may follow the generated ones: what
        `after` says, without computing it where a cheaper question decides."""
        if not self._move(generated):
            return False
        if self._known is None and not self._forced_here():
            return self.matcher.admits([token]) == 1
        options = self.after(generated)
        return options is not None and token < len(options.tokens) and bool(options.tokens[token])

    def accepts(self, generated: Sequence[int] | IntArray) -> bool:
        """Return whether the text may end after the generated tokens."""
        return self._move(generated) and self.matcher.accepting

    def forced(self, generated: Sequence[int] | IntArray) -> list[int]:
        """Return the usual tokens of the bytes that must follow the generated ones."""
        return list(self._forced_here()) if self._move(generated) else []

    def fork(self) -> "Walk":
        """Return a walk that moves by itself."""
        return Walk(self.matcher.fork(), list(self.path), self.times, self._known, self._forced)

    def _forced_here(self) -> list[int]:
        """Return the forced tokens at the end of `path`, which the matcher is asked for once."""
        if self._forced is None:
            self._forced = self.matcher.forced()
        return self._forced

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
            self._known = self._forced = None
        if len(text) > len(path):
            more = text[len(path) :]
            moved = self.matcher.advance(more)
            path += more[:moved]
            self._known = self._forced = None
            return moved == len(more)
        return True
