"""Grammars that hold in a part of the text: after an opening text, and up to a closing one.

Outside that part the text is free, so that no mask is computed there. The opening text is found in
the bytes of the tokens, because it can begin and end inside a token. What a token holds behind it
is read by the grammar: a token is not allowed if the grammar refuses that rest.

All states are kept per token, so that a matcher moves back over the borders of the part, and the
token behind an opening text in a draft is already constrained.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from outrider.core.errors import GrammarError
from outrider.sampling.constraint import Gate
from outrider.sampling.walk import Allowed, Grammar, Matcher

__all__ = ["GateGrammar", "GateMatcher", "TokenBytes"]

_FREE_TO_END = -1
"""The state behind the closing text of a gate that does not repeat."""


class TokenBytes:
    """The bytes of all tokens, and which tokens have given bytes."""

    def __init__(self, texts: Sequence[bytes], special: Sequence[int], ends: Sequence[int]) -> None:
        """Sort the tokens by their bytes.

        Args:
            texts: `[vocab]` the bytes of each token; of a special token, those of its text.
            special: special tokens, which never stand for a part of a text.
            ends: end tokens.
        """
        self.texts, self.ends = tuple(texts), frozenset(ends)
        self._sorted = sorted((text, token) for token, text in enumerate(texts) if text)
        apart = {*special, *ends}
        self._ids = {text: token for text, token in reversed(self._sorted) if token not in apart}
        self._longest = max(map(len, self._ids), default=0)

    def beginning_with(self, text: bytes) -> Iterator[int]:
        """Yield the tokens whose bytes begin with `text`."""
        at = bisect_left(self._sorted, (text, -1))
        while at < len(self._sorted) and self._sorted[at][0].startswith(text):
            yield self._sorted[at][1]
            at += 1

    def holding(self, text: bytes) -> Iterator[int]:
        """Yield the tokens whose bytes hold `text`."""
        return (token for token, own in enumerate(self.texts) if text in own)

    def spelled(self, text: bytes) -> list[int] | None:
        """Return tokens with these bytes, the longest first; None if there are none, as in
        vocabularies without a token for each byte."""
        found, at = list[int](), 0
        while at < len(text):
            most = min(self._longest, len(text) - at)
            sizes = (n for n in range(most, 0, -1) if text[at : at + n] in self._ids)
            if (size := next(sizes, 0)) == 0:
                return None
            found.append(self._ids[text[at : at + size]])
            at += size
        return found


@dataclass(slots=True)
class GateGrammar:
    """A compiled grammar that holds in a part of the text.

    Attributes:
        inner: the grammar of that part, the closing text included.
        gate: where the part begins and ends.
        words: the vocabulary.
    """

    inner: Grammar
    gate: Gate
    words: TokenBytes
    _open: bytes = b""
    _whole: frozenset[int] = frozenset()
    _free: Allowed = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    _masks: dict[int, Allowed] = field(default_factory=dict[int, Allowed])
    _entries: dict[bytes, list[int] | None] = field(default_factory=dict[bytes, list[int] | None])

    def __post_init__(self) -> None:
        self._open = self.gate.open.encode()
        self._whole = frozenset(self.words.holding(self._open))
        self._free = np.ones(len(self.words.texts), dtype=np.bool_)
        self._free[list(self.words.ends)] = False

    def begin(self) -> "GateMatcher":
        """Return a matcher at the beginning of a text."""
        return GateMatcher(self)

    def mask(self, state: int) -> Allowed:
        """Return the tokens that are allowed in free text, where the first `state` bytes of the
        opening text have been written."""
        if state == _FREE_TO_END:
            return self._free
        if (known := self._masks.get(state)) is None:
            refused = [t for t in self._completing(state) if self._refuses(state, t)]
            known = self._free
            if refused:
                known = self._free.copy()
                known[refused] = False
            self._masks[state] = known
        return known

    def find(self, state: int, token: int) -> tuple[int, bytes | None]:
        """Return the state behind a token, and the bytes behind the opening text if the token
        completes it; None otherwise."""
        text = self._open[:state] + self.words.texts[token]
        if (at := text.find(self._open)) >= 0:
            return 0, text[at + len(self._open) :]
        most = min(len(self._open) - 1, len(text))
        sizes = (n for n in range(most, 0, -1) if text.endswith(self._open[:n]))
        return next(sizes, 0), None

    def entry(self, rest: bytes) -> list[int] | None:
        """Return tokens with the bytes of `rest`, which follow the opening text; None if the
        grammar refuses them."""
        if rest not in self._entries:
            tokens, inner = self.words.spelled(rest), self.inner.begin()
            for token in tokens or ():
                if self.closes(inner) or inner.advance([token]) == 0:
                    tokens = None
                    break
            self._entries[rest] = tokens
        return self._entries[rest]

    def closes(self, inner: Matcher) -> bool:
        """Whether the part of the text that `inner` reads is complete, closing text included."""
        return self.gate.close is not None and inner.accepting

    def _completing(self, state: int) -> set[int]:
        """Return the tokens that may complete the opening text."""
        begun = self._open[:state]
        rests = {self._open[n:] for n in range(1, state + 1) if begun.endswith(self._open[:n])}
        found = {token for rest in rests for token in self.words.beginning_with(rest)}
        return found | self._whole

    def _refuses(self, state: int, token: int) -> bool:
        rest = self.find(state, token)[1]
        return rest is not None and self.entry(rest) is None


@dataclass(frozen=True, slots=True)
class _Step:
    """The state behind a token.

    Attributes:
        state: in free text, bytes of the opening text that stand at the end.
        inside: the matcher of the part of the text that is constrained; None in free text.
        moved: the matcher that has read the token, and existed before it.
        opened: the opening text was written before.
    """

    state: int = 0
    inside: Matcher | None = None
    moved: Matcher | None = None
    opened: bool = False


@dataclass(slots=True)
class GateMatcher:
    """A matcher of a grammar that holds in a part of the text."""

    grammar: GateGrammar
    _steps: list[_Step] = field(default_factory=lambda: [_Step()])

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        now = self._steps[-1]
        if now.inside is None:
            return now.opened or not self.grammar.gate.required
        return self.grammar.gate.close is None and now.inside.accepting

    def advance(self, tokens: Sequence[int]) -> int:
        """See `Matcher.advance`."""
        for count, token in enumerate(tokens):
            try:
                step = self._after(int(token))
            except GrammarError:  # nothing has moved then, as in other matchers
                self.retreat(count)
                raise
            if step is None:
                return count
            self._steps.append(step)
        return len(tokens)

    def retreat(self, count: int) -> None:
        """See `Matcher.retreat`."""
        for _ in range(count):
            if (moved := self._steps.pop().moved) is not None:
                moved.retreat(1)

    def admits(self, tokens: Sequence[int]) -> int:
        """See `Matcher.admits`."""
        count = self.advance(tokens)
        self.retreat(count)
        return count

    def allowed(self) -> Allowed:
        """See `Matcher.allowed`."""
        now = self._steps[-1]
        return self.grammar.mask(now.state) if now.inside is None else now.inside.allowed()

    def forced(self) -> list[int]:
        """See `Matcher.forced`."""
        inside = self._steps[-1].inside
        return [] if inside is None else inside.forced()

    def fork(self) -> "GateMatcher":
        """See `Matcher.fork`."""
        both = [m for step in self._steps for m in (step.inside, step.moved) if m is not None]
        copies = {id(matcher): matcher.fork() for matcher in {id(m): m for m in both}.values()}
        steps = [
            replace(step, inside=copies.get(id(step.inside)), moved=copies.get(id(step.moved)))
            for step in self._steps
        ]
        return GateMatcher(self.grammar, steps)

    def _after(self, token: int) -> _Step | None:
        """Return the state behind a token, which the matcher inside reads; None if it is not
        allowed."""
        now, grammar = self._steps[-1], self.grammar
        if (inside := now.inside) is not None:
            return self._inside(inside) if inside.advance([token]) else None
        words = grammar.words
        if token in words.ends or not 0 <= token < len(words.texts):
            return None
        if now.state == _FREE_TO_END:
            return replace(now, moved=None)
        state, rest = grammar.find(now.state, token)
        if rest is None:
            return _Step(state, opened=now.opened)
        if (tokens := grammar.entry(rest)) is None:
            return None
        inner = grammar.inner.begin()
        inner.advance(tokens)
        return replace(self._inside(inner), moved=None)

    def _inside(self, inner: Matcher) -> _Step:
        """Return the state behind a token that `inner` has read."""
        if not self.grammar.closes(inner):
            return _Step(inside=inner, moved=inner, opened=True)
        return _Step(0 if self.grammar.gate.repeat else _FREE_TO_END, moved=inner, opened=True)
