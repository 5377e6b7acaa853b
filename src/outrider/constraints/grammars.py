"""Compiled grammars of one model, kept for requests that give them again."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from outrider.constraints.gates import GateGrammar, TokenBytes
from outrider.constraints.limits import GrammarLimits
from outrider.constraints.validation import validator_of
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import Grammar

_KEPT = 64
"""Compiled grammars that are kept."""


@dataclass(slots=True)
class _Shelf:
    lock: threading.Lock = field(default_factory=threading.Lock)
    kept: OrderedDict[Constraint, Grammar] = field(default_factory=OrderedDict)


def check_constraint(constraint: Constraint) -> None:
    """Check all of a constraint that does not depend on a model.

    Raises:
        OptionError, MissingExtraError: as `Grammars.of`.
    """
    from outrider.constraints.guidance_engine import check_grammar

    GrammarLimits().check(constraint)
    if not constraint.enforced:
        validator_of(constraint.source)
    check_grammar(constraint)


class Grammars:
    """Compiles constraints for one vocabulary. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int], vocab_size: int) -> None:
        """Read nothing yet: the vocabulary is read for the first constraint.

        Args:
            tokenizer: of the target.
            ends: the tokens that end a text.
            vocab_size: of the target.
        """
        self.limits = GrammarLimits()
        self._tokenizer, self._ends, self._size = tokenizer, tuple(ends), vocab_size
        self._shelf = _Shelf()

    def of(self, constraint: Constraint) -> Grammar:
        """Return the grammar of a constraint, compiled once.

        Raises:
            OptionError: it is not valid, cannot be enforced, or exceeds a limit.
            MissingExtraError: texts of this schema need a validator that is not installed.
        """
        shelf = self._shelf
        with shelf.lock:
            if (found := shelf.kept.get(constraint)) is not None:
                shelf.kept.move_to_end(constraint)
                return found
        self.limits.check(constraint)
        if not constraint.enforced:
            validator_of(constraint.source)  # its errors are raised before the text is written
        from outrider.constraints.guidance_engine import compile_grammar

        made: Grammar = compile_grammar(
            constraint, self._vocabulary, self._ends, self._tokenizer.special_texts
        )
        if constraint.gate is not None:
            made = GateGrammar(made, constraint.gate, self._words)
        with shelf.lock:
            shelf.kept[constraint] = made
            while len(shelf.kept) > _KEPT:
                shelf.kept.popitem(last=False)
        return made

    @cached_property
    def _words(self) -> TokenBytes:
        texts = [self._vocabulary.decode_bytes([token]) for token in range(self._size)]
        return TokenBytes(texts, tuple(self._tokenizer.special_texts), self._ends)

    @cached_property
    def _vocabulary(self):  # a class of llguidance, which is imported late
        from outrider.constraints.guidance_engine import vocabulary_of

        return vocabulary_of(self._tokenizer.definition, self._ends, self._size)
