"""What requests of one model may write: its grammars, and the checkers that users give."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property

from outrider.constraints.cfg import GrammarFilling, Vocabulary, grammar_of
from outrider.constraints.cfg.grammar import Grammar as FreeGrammar
from outrider.constraints.grammars import Grammars
from outrider.constraints.token_texts import TokenTexts
from outrider.core.errors import OptionError
from outrider.inputs.given import TextCodec
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.checker import Checker, Checks
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import MaskTimes, Walk

_KEPT_GRAMMARS = 64
"""Grammars of answers with gaps that are kept."""


class Restrictions:
    """Constraints and checkers of one vocabulary, as a sampler reads them.

    Attributes:
        mask_times: how long the masks of all requests took.
    """

    def __init__(
        self, tokenizer: TextCodec | None, ends: Sequence[int], vocab_size: Callable[[], int]
    ) -> None:
        """Read nothing yet.

        Args:
            tokenizer: of the target.
            ends: the tokens that end a text.
            vocab_size: returns that of the target.
        """
        self._codec, self._ends, self._size = tokenizer, tuple(ends), vocab_size
        self.mask_times = MaskTimes()
        self._free: OrderedDict[Constraint, FreeGrammar] = OrderedDict()

    @cached_property
    def grammars(self) -> Grammars:
        """The compiled constraints.

        Raises:
            OptionError: there is no tokenizer of a checkpoint.
        """
        return Grammars(self._tokenizer("constraint"), self._ends, self._size())

    @cached_property
    def _texts(self) -> TokenTexts:
        return TokenTexts(self._tokenizer("checker"))

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self._tokenizer("constraint"), self._ends, self._size())

    def filling(self, constraint: Constraint | None, mask_id: int) -> GrammarFilling | None:
        """Return what a masked denoiser may write under a constraint; None without one.

        Raises:
            OptionError: the constraint is not read by grammars with gaps (`constraints/cfg/`), or
                there is no tokenizer of a checkpoint.
        """
        if constraint is None:
            return None
        grammar = self._free.get(constraint) or grammar_of(constraint)
        self._free[constraint] = grammar
        self._free.move_to_end(constraint)
        while len(self._free) > _KEPT_GRAMMARS:
            self._free.popitem(last=False)
        return GrammarFilling(grammar, self._vocabulary, mask_id)

    def walk(self, constraint: Constraint | None) -> Walk | None:
        """Return a new walk over the grammar of a constraint; None without one."""
        if constraint is None:
            return None
        return Walk(self.grammars.of(constraint).begin(), times=self.mask_times)

    def checks(self, checker: Checker | None) -> Checks | None:
        """Return the answers of a checker, none asked for yet; None without one."""
        return None if checker is None else Checks(checker, self._texts.plain_bytes)

    def _tokenizer(self, reader: str) -> Tokenizer:
        if not isinstance(self._codec, Tokenizer):
            raise OptionError(f"a {reader} needs a tokenizer", hint="Load one with the model")
        return self._codec
