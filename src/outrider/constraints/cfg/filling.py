"""Answers whose positions are filled in any order, under a grammar."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from outrider.constraints.cfg.completion import shortest_fill
from outrider.constraints.cfg.emptiness import CheckLimits, completable
from outrider.constraints.cfg.grammar import Grammar, Rules
from outrider.constraints.cfg.pattern import Pattern
from outrider.constraints.cfg.regex import parse_regex
from outrider.constraints.cfg.schema import schema_grammar
from outrider.constraints.cfg.text_form import read_grammar
from outrider.constraints.cfg.vocabulary import Vocabulary
from outrider.constraints.limits import GrammarLimits
from outrider.core.errors import OptionError
from outrider.core.types import IntArray, as_ids
from outrider.sampling.checker import Checker
from outrider.sampling.constraint import Constraint

_KEPT = 4096
"""Answers of `GrammarFilling.allows` that are kept."""


def grammar_of(constraint: Constraint, limits: GrammarLimits | None = None) -> Grammar:
    """Return the context-free grammar of a constraint.

    Raises:
        OptionError: it is not valid, exceeds a limit, or has parts that are not read here: forms of
            llama.cpp, gates, and keywords of schemas (see `schema.py`).
    """
    (limits or GrammarLimits()).check(constraint)
    if constraint.gate is not None:
        raise OptionError("a gate is not read by grammars with gaps", hint="Leave it out")
    if constraint.kind == "json":
        return schema_grammar(json.loads(constraint.source), constraint.whitespace)
    if constraint.kind == "lark":
        return read_grammar(constraint.source)
    if constraint.kind == "regex":
        rules = Rules()
        symbol = rules.terminal(parse_regex(constraint.source), "the regular expression")
        return rules.build(symbol)
    raise OptionError("GBNF is not read by grammars with gaps", hint="Write the grammar as Lark")


def checker_of(grammar: Grammar, limits: CheckLimits | None = None) -> Checker:
    """Return the checker that lets a text follow a grammar where it is written from left to right:
    a prefix is a text with one gap behind it."""
    return Checker(
        lambda text: completable(grammar, Pattern(text, (len(text),)), limits),
        lambda text: completable(grammar, Pattern(text), limits),
        "grammar",
    )


@dataclass(slots=True)
class GrammarFilling:
    """Whether a partly filled answer can become a text of a grammar, and its completion.

    Masked positions that stand together are one gap, for any bytes or none: their number does not
    limit what may stand there. So no answer of the grammar is refused, but the masks of an allowed
    one may turn out too few; then `complete` gives a longer text. What follows the first end token
    is ignored.

    Attributes:
        grammar: the grammar.
        vocabulary: what tokens stand for.
        mask_id: the id of an open position.
        closed: whether the text ends with the answer. False: it may go on behind it, as in an
            answer that is written in blocks.
        limits: of each question.
    """

    grammar: Grammar
    vocabulary: Vocabulary
    mask_id: int
    closed: bool = True
    limits: CheckLimits = field(default_factory=CheckLimits)
    _known: OrderedDict[Pattern, bool] = field(default_factory=OrderedDict)

    def allows(self, answer: Sequence[int] | IntArray) -> bool:
        """Return whether the open positions of an answer can be filled with bytes that make it a
        text of the grammar.

        Args:
            answer: `[length]`, with `mask_id` where it is open.

        Raises:
            GrammarError: a limit is exceeded.
        """
        pattern = self.pattern(answer)
        if pattern is None:
            return False
        if (found := self._known.get(pattern)) is None:
            found = self._known[pattern] = completable(self.grammar, pattern, self.limits)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found

    def complete(self, answer: Sequence[int] | IntArray) -> IntArray | None:
        """Return a text of the grammar that keeps all known tokens of an answer, with the fewest
        bytes in place of its masks.

        Args:
            answer: `[length]`, as for `allows`.

        Returns:
            `[any]`: the tokens of the text, and one end token if the answer has one or if the text
            is shorter. If gaps need more tokens than they have masks, it is longer than the answer.
            None if there is no such text, or no tokens spell it.

        Raises:
            GrammarError: a limit is exceeded.
        """
        pattern = self.pattern(answer)
        fills = None if pattern is None else shortest_fill(self.grammar, pattern, self.limits)
        if pattern is None or fills is None:
            return None
        spelled = {place: self.vocabulary.spelled(data) for place, data in fills.items()}
        found, place, end = list[int](), 0, list[int]()
        for token in [int(one) for one in answer]:
            if token in self.vocabulary.ends:
                end = [token]
                break
            if token != self.mask_id:
                found.append(token)
                place += len(self.vocabulary.bytes_of(token) or b"")
            elif place in spelled:
                tokens = spelled.pop(place)
                if tokens is None:
                    return None
                found += tokens
        for tokens in spelled.values():  # behind the answer
            if tokens is None:
                return None
            found += tokens
        if not end and self.vocabulary.ends and len(found) < len(answer):
            end = [min(self.vocabulary.ends)]
        return as_ids(found + end)

    def pattern(self, answer: Sequence[int] | IntArray) -> Pattern | None:
        """Return the text of an answer with its gaps; None if a token stands for no text."""
        text, gaps = bytearray(), dict[int, None]()
        for token in answer.tolist() if not isinstance(answer, Sequence) else answer:
            if token == self.mask_id:
                gaps[len(text)] = None
            elif token in self.vocabulary.ends:
                break
            elif data := self.vocabulary.bytes_of(token):
                text += data
            else:
                return None
        else:
            if not self.closed:
                gaps[len(text)] = None
        return Pattern(bytes(text), tuple(gaps))
