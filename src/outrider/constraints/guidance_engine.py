"""Grammars by llguidance, which refuses what it cannot enforce.

Its matchers are moved back without errors only if no end token was consumed (with version 1.9.1,
657 of 24,975 walks over end tokens went wrong, and none of 24,975 without them), so that end tokens
stay outside. A matcher that has failed stays failed and says so by a return value only; it is then
built again from the text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import llguidance
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from outrider.constraints.lark import literal
from outrider.constraints.sources import matcher_of, sentence_of, vocabulary_of
from outrider.core.errors import GrammarError
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import Allowed

__all__ = [
    "GuidanceGrammar",
    "GuidanceMatcher",
    "compile_grammar",
    "vocabulary_of",
]

ENGINE = (
    f"llguidance {llguidance.__version__}" if hasattr(llguidance, "__version__") else "llguidance"
)
_NONE: Mapping[int, str] = {}


@dataclass(frozen=True, slots=True)
class GuidanceGrammar:
    """A grammar that llguidance has compiled.

    Attributes:
        first: a matcher at the beginning, which never moves.
        vocab_size: size of masks.
        ends: end tokens, which masks leave out.
    """

    first: LLMatcher
    vocab_size: int
    ends: frozenset[int]

    def begin(self) -> "GuidanceMatcher":
        """Return a matcher at the beginning of a text."""
        return GuidanceMatcher(self, self.first.deep_copy())


@dataclass(slots=True)
class GuidanceMatcher:
    """A matcher of llguidance, with the text that it has read."""

    grammar: GuidanceGrammar
    inner: LLMatcher
    _read: list[int] = field(default_factory=list)

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return self.inner.is_accepting()

    def advance(self, tokens: Sequence[int]) -> int:
        """See `Matcher.advance`."""
        count = self.admits(tokens)
        taken = [int(token) for token in tokens[:count]]
        if taken and not self.inner.consume_tokens(taken):
            raise self._failed()
        self._read += taken
        return count

    def retreat(self, count: int) -> None:
        """See `Matcher.retreat`."""
        if count <= 0:
            return
        del self._read[len(self._read) - count :]
        if not self.inner.rollback(count) or self.inner.is_error():
            self._build()

    def admits(self, tokens: Sequence[int]) -> int:
        """See `Matcher.admits`."""
        known = []
        for token in tokens:
            if token in self.grammar.ends or not 0 <= token < self.grammar.vocab_size:
                break
            known.append(int(token))
        if self._stopped or not known:
            return 0
        count = self.inner.validate_tokens(known)
        if self.inner.is_error():
            raise self._failed()
        return count

    def allowed(self) -> Allowed:
        """See `Matcher.allowed`."""
        size = self.grammar.vocab_size
        if self._stopped:
            return np.zeros(size, dtype=np.bool_)
        words = np.zeros((size + 31) // 32, dtype=np.uint32)
        self.inner.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self.inner.is_error():
            raise self._failed()
        found = np.unpackbits(words.view(np.uint8), bitorder="little")[:size].view(np.bool_)
        found[list(self.grammar.ends)] = False
        return found

    def forced(self) -> list[int]:
        """See `Matcher.forced`."""
        if self._stopped:
            return []
        found = self.inner.compute_ff_tokens()
        return found[: self.admits(found)]

    def fork(self) -> "GuidanceMatcher":
        """See `Matcher.fork`."""
        return GuidanceMatcher(self.grammar, self.inner.deep_copy(), list(self._read))

    @property
    def _stopped(self) -> bool:
        """Whether nothing may follow. Raises `GrammarError` if the state has failed."""
        if self.inner.is_error():
            raise self._failed()
        return self.inner.is_stopped()

    def _build(self) -> None:
        """Build the state again from the text. If that fails, every use of it raises an error."""
        self.inner = self.grammar.first.deep_copy()
        if self._read:
            self.inner.consume_tokens(self._read)

    def _failed(self) -> GrammarError:
        """Return the error of the state, which is then built again: drafts of a text may fail where
        the text does not."""
        reason = sentence_of(self.inner.get_error() or "cannot read the text")
        self._build()
        return GrammarError(f"the grammar cannot be followed: {reason}", hint="Simplify it")


def compile_grammar(
    constraint: Constraint,
    vocabulary: LLTokenizer,
    ends: Sequence[int],
    special: Mapping[int, str] = _NONE,
) -> GuidanceGrammar:
    """Compile a grammar. Takes about a millisecond, and up to a second for the most complex ones.

    Of a gate, the closing text becomes the end of the grammar; the rest of it is not read.

    Args:
        constraint: the grammar.
        vocabulary: what it is compiled for.
        ends: end tokens.
        special: the texts of special tokens, one of which may close a gate.

    Raises:
        OptionError: the grammar is not valid, or a part of it cannot be enforced.
    """
    close = None if constraint.gate is None else constraint.gate.close
    term = None if close is None else literal(close, special)
    matcher = matcher_of(constraint, vocabulary, term)
    return GuidanceGrammar(matcher, vocabulary.vocab_size, frozenset(ends))
