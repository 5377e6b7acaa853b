"""Grammars by llguidance, which refuses what it cannot enforce.

Its matchers are moved back without errors only if no end token was consumed (with version 1.9.1,
657 of 24,975 walks over end tokens went wrong, and none of 24,975 without them), so that end tokens
stay outside. A matcher that has failed stays failed and says so by a return value only; it is then
built again from the text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import llguidance
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from outrider.constraints.json_schema import WHITESPACE, check_references
from outrider.constraints.lark import literal
from outrider.core.errors import LogitsError, OptionError
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import Allowed

if TYPE_CHECKING:  # the module of types is not there at run time
    from llguidance._lib import JsonCompileOptions

__all__ = [
    "GuidanceGrammar",
    "GuidanceMatcher",
    "check_grammar",
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
            self._fail("cannot read the text")
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
        if not known or self.inner.is_stopped():
            return 0
        return self.inner.validate_tokens(known)

    def allowed(self) -> Allowed:
        """See `Matcher.allowed`."""
        size = self.grammar.vocab_size
        if self.inner.is_stopped():
            if self.inner.is_error():
                self._fail(self.inner.get_error())
            return np.zeros(size, dtype=np.bool_)
        words = np.zeros((size + 31) // 32, dtype=np.uint32)
        self.inner.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self.inner.is_error():
            self._fail(self.inner.get_error())
        found = np.unpackbits(words.view(np.uint8), bitorder="little")[:size].view(np.bool_)
        found[list(self.grammar.ends)] = False
        return found

    def forced(self) -> list[int]:
        """See `Matcher.forced`."""
        if self.inner.is_stopped():
            return []
        found = self.inner.compute_ff_tokens()
        return found[: self.admits(found)]

    def fork(self) -> "GuidanceMatcher":
        """See `Matcher.fork`."""
        return GuidanceMatcher(self.grammar, self.inner.deep_copy(), list(self._read))

    def _build(self) -> None:
        """Build the state again from the text."""
        self.inner = self.grammar.first.deep_copy()
        if self._read and not self.inner.consume_tokens(self._read):
            self._fail("cannot read the text again")

    def _fail(self, reason: str) -> None:
        raise LogitsError(
            f"the grammar cannot be followed: {_sentence(reason)}", hint="Simplify the grammar"
        )


def vocabulary_of(tokenizer: str, ends: Sequence[int], vocab_size: int) -> LLTokenizer:
    """Return a vocabulary as llguidance reads it, in about 0.1 s.

    Args:
        tokenizer: the text of tokenizer.json.
        ends: end tokens, at least one.
        vocab_size: of the model, at least that of the tokenizer.

    Raises:
        OptionError: there is no end token, or the engine cannot read this tokenizer.
    """
    if not ends:
        raise OptionError(
            "a constraint needs a model with an end token", hint="Set eos_token_id of the model"
        )
    try:
        return LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(ends))
    except ValueError as error:
        raise OptionError(
            f"the tokenizer cannot be used with a constraint: {_sentence(str(error))}"
        ) from None


def check_grammar(constraint: Constraint) -> None:
    """Check a grammar without a vocabulary, so that a wrong one is reported before a model is
    loaded.

    Raises:
        OptionError: as `compile_grammar`.
    """
    if reason := LLMatcher.validate_grammar(_source(constraint)):
        raise _refused(constraint, reason)


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
    source = _source(constraint)
    if constraint.gate is not None and (close := constraint.gate.close) is not None:
        source = _closed(source, literal(close, special))
    matcher = LLMatcher(vocabulary, source, log_level=0, limits=LLParserLimits())
    if matcher.is_error():
        raise _refused(constraint, matcher.get_error())
    return GuidanceGrammar(matcher, vocabulary.vocab_size, frozenset(ends))


def _source(constraint: Constraint) -> str:
    """Return a grammar in the form that llguidance reads."""
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.source)
    if constraint.kind == "lark":
        return LLMatcher.grammar_from_lark(constraint.source)
    if constraint.kind == "gbnf":
        try:
            return LLMatcher.grammar_from_lark(gbnf_to_lark(constraint.source))
        except Exception as error:
            raise OptionError(f"the GBNF grammar is refused: {_sentence(str(error))}") from None
    options: "JsonCompileOptions" = {
        "whitespace_flexible": True,
        "coerce_one_of": constraint.unsupported != "refuse",
        "lenient": constraint.unsupported == "lenient",
    }
    if constraint.whitespace == "compact":
        options["whitespace_flexible"] = False
    elif constraint.whitespace != "flexible":
        options["whitespace_pattern"] = constraint.whitespace or WHITESPACE
    check_references(json.loads(constraint.source))
    try:
        return LLMatcher.grammar_from_json_schema(constraint.source, overrides=options)
    except ValueError as error:
        raise OptionError(f"the json constraint is refused: {_sentence(str(error))}") from None


def _closed(source: str, close: str) -> str:
    """Return a grammar whose texts end with a term of Lark."""
    whole = (
        json.loads(source) if source.startswith("{") else {"grammars": [{"lark_grammar": source}]}
    )
    [body] = whole["grammars"]
    first = {"lark_grammar": f"start: @body {close}"}
    return json.dumps({"grammars": [first, {**body, "name": "body"}]})


def _refused(constraint: Constraint, reason: str) -> OptionError:
    """Return the error for a grammar that the engine refuses, with what would make it usable."""
    sentence, hint = _sentence(reason), ""
    if constraint.kind == "regex":
        sentence = sentence.rpartition("regex parse error: ")[2]
        hint = "Give a pattern without look-around and back references, as Rust's regex reads it"
    elif "coerce_one_of" in reason:
        sentence = "oneOf whose alternatives may overlap cannot be enforced"
        hint = "unsupported='coerce' reads it as anyOf"
    elif reason.startswith(("Unimplemented keys", "Unknown format")):
        hint = "Leave it out; unsupported='lenient' ignores what cannot be enforced"
    return OptionError(f"the {constraint.kind} constraint is refused: {sentence}", hint=hint)


def _sentence(text: str) -> str:
    """Return a message of the engine as one line, without the lines that show the place."""
    first, *rest = text.strip().splitlines() or [""]
    cause = next((line for line in rest if line.startswith("error: ")), "")
    return " ".join(f"{first} {cause.removeprefix('error: ')}".split())[:300]
