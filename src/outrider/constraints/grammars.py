"""Compiled grammars of one model, kept for requests that give them again."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from outrider.constraints.gates import GateGrammar, TokenBytes
from outrider.constraints.limits import GrammarLimits
from outrider.constraints.token_texts import TokenTexts
from outrider.constraints.validation import validator_of
from outrider.core.errors import OptionError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import Grammar

if TYPE_CHECKING:
    from outrider.constraints.xgrammar_engine import XGrammarEngine

KEPT = 256 << 20
"""Bytes of compiled grammars that are kept, as `Grammars._estimated`."""
_EACH, _PER_BYTE = 1 << 18, 64
"""Bytes of a compiled grammar: those of any, and for each byte of its source."""


@dataclass(slots=True)
class _Shelf:
    lock: threading.Lock = field(default_factory=threading.Lock)
    kept: OrderedDict[Constraint, Grammar] = field(default_factory=OrderedDict)
    made: dict[Constraint, Future[Grammar]] = field(default_factory=dict)
    bytes: int = 0


def check_constraint(constraint: Constraint) -> None:
    """Check all of a constraint that does not depend on a model.

    Raises:
        OptionError, MissingExtraError: as `Grammars.of`.
    """
    GrammarLimits().check(constraint)
    if not constraint.enforced:
        validator_of(constraint.source)
    if constraint.engine == "xgrammar":  # it reads grammars with a vocabulary only
        xgrammar_engine()
        return
    from outrider.constraints.sources import check_grammar

    check_grammar(constraint)


def xgrammar_engine() -> "type[XGrammarEngine]":
    """Return the class that compiles grammars with xgrammar. Raises `OptionError` without it."""
    try:
        from outrider.constraints.xgrammar_engine import XGrammarEngine
    except ImportError:
        raise OptionError(
            "xgrammar is not installed", hint="Install it with: pip install xgrammar"
        ) from None
    return XGrammarEngine


class Grammars:
    """Compiles constraints for one vocabulary. Threads may share it."""

    def __init__(
        self, tokenizer: Tokenizer, ends: Sequence[int], vocab_size: int, *, kept: int = KEPT
    ) -> None:
        """Read nothing yet: the vocabulary is read for the first constraint.

        Args:
            tokenizer: of the target.
            ends: the tokens that end a text.
            vocab_size: of the target.
            kept: bytes of compiled grammars that are kept; the one that was used longest ago is
                dropped first.
        """
        self.limits = GrammarLimits()
        self._tokenizer, self._ends, self._size = tokenizer, tuple(ends), vocab_size
        self._shelf, self._most = _Shelf(), kept
        self._reading, self._read = threading.Lock(), None
        self._words: TokenBytes | None = None
        self._other: XGrammarEngine | None = None

    def of(self, constraint: Constraint) -> Grammar:
        """Return the grammar of a constraint, compiled once, also if threads ask at the same time.

        Raises:
            OptionError: it is not valid, cannot be enforced, or exceeds a limit.
            MissingExtraError: texts of this schema need a validator that is not installed.
        """
        shelf = self._shelf
        with shelf.lock:
            if (found := shelf.kept.get(constraint)) is not None:
                shelf.kept.move_to_end(constraint)
                return found
            made = shelf.made.get(constraint)
            if own := made is None:
                made = shelf.made[constraint] = Future()
        if not own:
            return made.result()
        try:
            grammar = self._compiled(constraint)
        except BaseException as error:
            made.set_exception(error)
            raise
        else:
            self._keep(constraint, grammar)
            made.set_result(grammar)
            return grammar
        finally:
            with shelf.lock:
                del shelf.made[constraint]

    def vocabulary(self) -> tuple[str, tuple[int, ...], int]:
        """Return the tokenizer, the end tokens and the size of the vocabulary (`Examiners`).

        Raises:
            OptionError: the tokenizer cannot be used with a grammar.
        """
        return self._tokenizer.definition, self._ends, self._size

    def knows(self, constraint: Constraint) -> bool:
        """Whether the grammar of a constraint is kept."""
        with self._shelf.lock:
            return constraint in self._shelf.kept

    def _compiled(self, constraint: Constraint) -> Grammar:
        self.limits.check(constraint)
        if not constraint.enforced:
            validator_of(constraint.source)  # its errors are raised before the text is written
        by_xgrammar = constraint.engine == "xgrammar"
        made = self._xgrammar(constraint) if by_xgrammar else self._llguidance(constraint)
        if constraint.gate is None:
            return made
        return GateGrammar(made, constraint.gate, self._token_bytes())

    def _keep(self, constraint: Constraint, grammar: Grammar) -> None:
        shelf = self._shelf
        with shelf.lock:
            shelf.kept[constraint] = grammar
            shelf.bytes += self._estimated(constraint)
            while shelf.bytes > self._most and len(shelf.kept) > 1:
                shelf.bytes -= self._estimated(shelf.kept.popitem(last=False)[0])

    def _estimated(self, constraint: Constraint) -> int:
        """Return about how many bytes a compiled grammar has; in front of a gate at most a mask for
        each byte of the opening text, and that of free text."""
        gate = constraint.gate
        masks = 0 if gate is None else len(gate.open.encode()) + 1
        return _EACH + _PER_BYTE * len(constraint.source) + masks * self._size

    def _llguidance(self, constraint: Constraint) -> Grammar:
        from outrider.constraints.guidance_engine import compile_grammar

        special = self._tokenizer.special_texts
        return compile_grammar(constraint, self._vocabulary, self._ends, special)

    def _xgrammar(self, constraint: Constraint) -> Grammar:
        with self._reading:
            if self._other is None:
                made = xgrammar_engine()
                self._other = made(self._tokenizer.definition, self._ends, self._size)
        return self._other.compile(constraint)

    def _token_bytes(self) -> TokenBytes:
        with self._reading:
            if self._words is None:
                bytes_of = TokenTexts(self._tokenizer).bytes_of
                texts = [bytes_of(token) for token in range(self._size)]
                special = tuple(self._tokenizer.special_texts)
                self._words = TokenBytes(texts, special, self._ends)
            return self._words

    @property
    def _vocabulary(self):  # a class of llguidance, which is imported late
        from outrider.constraints.guidance_engine import vocabulary_of

        with self._reading:
            if self._read is None:
                self._read = vocabulary_of(self._tokenizer.definition, self._ends, self._size)
            return self._read
