"""Grammars by xgrammar, for comparison: it ignores parts of a schema that it cannot enforce.

It is never used unless it is named (`Constraint.engine`, `--constraint-engine xgrammar`). Finished
JSON is then checked (`Constraint.enforced`).

Install it with `pip install xgrammar`. It is in no extra: on Linux it installs triton, which is
larger than all that Outrider needs besides PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xgrammar  # pyright: ignore[reportMissingImports]
from tokenizers import Tokenizer

from outrider.core.errors import OptionError
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import Allowed

__all__ = ["XGrammarEngine", "XGrammarGrammar", "XGrammarMatcher"]


class XGrammarEngine:
    """Compiles schemas, regular expressions and GBNF grammars for one vocabulary."""

    def __init__(self, tokenizer: str, ends: Sequence[int], vocab_size: int) -> None:
        """Read the vocabulary.

        Args:
            tokenizer: the text of tokenizer.json.
            ends: end tokens, at least one.
            vocab_size: of the model, at least that of the tokenizer.
        """
        from transformers import PreTrainedTokenizerFast

        inner = Tokenizer.from_str(tokenizer)
        inner.encode_special_tokens = True
        info = xgrammar.TokenizerInfo.from_huggingface(
            PreTrainedTokenizerFast(tokenizer_object=inner),
            vocab_size=vocab_size,
            stop_token_ids=list(ends),
        )
        self.vocab_size, self.ends, self.tokenizer = vocab_size, frozenset(ends), inner
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile(self, constraint: Constraint) -> "XGrammarGrammar":
        """Compile a grammar.

        Raises:
            OptionError: xgrammar refuses it, or reads no grammars of its kind.
        """
        try:
            made = self._compiled(constraint)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise OptionError(f"the {constraint.kind} constraint is refused: {reason}") from None
        return XGrammarGrammar(made, self)

    def _compiled(self, constraint: Constraint) -> "xgrammar.CompiledGrammar":
        source, whitespace = constraint.source, constraint.whitespace
        if constraint.gate is not None and constraint.gate.close is not None:
            raise OptionError("xgrammar does not read grammars that close", hint="Use llguidance")
        if constraint.kind == "regex":
            return self._compiler.compile_regex(source)
        if constraint.kind == "gbnf":
            return self._compiler.compile_grammar(source)
        if constraint.kind == "lark" or constraint.unsupported != "refuse":
            raise OptionError("xgrammar does not read this constraint", hint="Use llguidance")
        if whitespace is not None and whitespace != "compact":
            raise OptionError("xgrammar has no patterns of white space", hint="Use llguidance")
        return self._compiler.compile_json_schema(
            source,
            any_whitespace=whitespace is None,
            separators=(",", ":") if whitespace == "compact" else None,
            strict_mode=False,
            max_whitespace_cnt=16 if whitespace is None else None,
        )


@dataclass(frozen=True, slots=True)
class XGrammarGrammar:
    """A grammar that xgrammar has compiled."""

    compiled: "xgrammar.CompiledGrammar"
    engine: XGrammarEngine

    def begin(self) -> "XGrammarMatcher":
        """Return a matcher at the beginning of a text."""
        return XGrammarMatcher(self, xgrammar.GrammarMatcher(self.compiled))


@dataclass(slots=True)
class XGrammarMatcher:
    """A matcher of xgrammar. End tokens are never given to it."""

    grammar: XGrammarGrammar
    inner: "xgrammar.GrammarMatcher"

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return self.inner.is_completed()

    def advance(self, tokens: Sequence[int]) -> int:
        """See `Matcher.advance`."""
        engine = self.grammar.engine
        for count, token in enumerate(tokens):
            known = token not in engine.ends and 0 <= token < engine.vocab_size
            if not known or not self.inner.accept_token(int(token)):
                return count
        return len(tokens)

    def retreat(self, count: int) -> None:
        """See `Matcher.retreat`."""
        if count > 0:
            self.inner.rollback(count)

    def admits(self, tokens: Sequence[int]) -> int:
        """See `Matcher.admits`."""
        count = self.advance(tokens)
        self.retreat(count)
        return count

    def allowed(self) -> Allowed:
        """See `Matcher.allowed`."""
        size = self.grammar.engine.vocab_size
        words = torch.full((1, (size + 31) // 32), -1, dtype=torch.int32)
        self.inner.fill_next_token_bitmask(words)
        packed = words.numpy().view(np.uint8)[0]
        found = np.unpackbits(packed, bitorder="little")[:size].view(np.bool_)
        found[list(self.grammar.engine.ends)] = False
        return found

    def forced(self) -> list[int]:
        """See `Matcher.forced`."""
        text = self.inner.find_jump_forward_string()
        if not text:
            return []
        found = self.grammar.engine.tokenizer.encode(text, add_special_tokens=False).ids
        return found[: self.admits(found)]

    def fork(self) -> "XGrammarMatcher":
        """See `Matcher.fork`."""
        return XGrammarMatcher(self.grammar, self.inner.fork())
