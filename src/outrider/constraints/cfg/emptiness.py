"""Whether a text with gaps can be completed to a word of a grammar.

The words that complete a text are the intersection of the grammar with the automaton of the text
(`Lexing`), which is never built. An item `(p, X, q)` says that the symbol X has a word between the
places p and q. Items are found from the start symbol downwards, where a rule asks for them, so that
what stands before a place limits what is tried there; they are indexed by p and X, and the search
stops at `(0, start, end)`.

Source: https://arxiv.org/abs/2508.10111, section 4. There items are found bottom-up.
"""

from dataclasses import dataclass
from time import perf_counter

from outrider.constraints.cfg.grammar import NONE, Grammar
from outrider.constraints.cfg.pattern import Lexing, Pattern
from outrider.core.errors import GrammarError

_LOOK = 1023
"""The clock is read once for so many steps, a power of two less one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLimits:
    """How much one question may cost.

    Attributes:
        steps: steps of the search, which do not depend on the machine.
        seconds: seconds of the search.
    """

    steps: int = 20_000_000
    seconds: float = 10.0

    def check(self, steps: int, begun: float) -> None:
        """Raise `GrammarError` if a limit is exceeded."""
        if steps > self.steps or perf_counter() - begun > self.seconds:
            raise GrammarError(
                f"a text with gaps was not decided in {steps} steps",
                hint="Simplify the grammar, or raise CheckLimits",
            )


def completable(grammar: Grammar, pattern: Pattern, limits: CheckLimits | None = None) -> bool:
    """Return whether some bytes in the gaps of a pattern make it a word of a grammar.

    Raises:
        GrammarError: a limit is exceeded.
    """
    if grammar.start is None:
        return False
    return _Search(grammar, pattern, limits or CheckLimits()).run()


class _Search:
    """The items of one pattern, and the rules that wait for them."""

    def __init__(self, grammar: Grammar, pattern: Pattern, limits: CheckLimits) -> None:
        self.grammar, self.limits = grammar, limits
        self.text, self.gaps = pattern.text, frozenset(pattern.gaps)
        self.lexing = Lexing(pattern, grammar.terminals)
        self.ends = dict[int, set[int]]()
        """Of each place and nonterminal that was asked for, where its words end."""
        self.waiting = dict[int, list[tuple[int, int, int]]]()
        """Of each of these, the rules that go on behind it: where they begin, their nonterminal,
        and their other symbol or NONE."""
        self.todo = list[tuple[int, int, int, int]]()
        """Parts of rules: where they begin, the nonterminal, what is missing, the place."""

    def run(self) -> bool:
        """Return whether the start symbol has a word from the beginning to the end."""
        start, limits, begun = self.grammar.start, self.limits, perf_counter()
        assert start is not None
        size, terminals = self.grammar.size, len(self.grammar.terminals)
        todo, ends, waiting, lex = self.todo, self.ends, self.waiting, self.lexing.ends
        last, steps = len(self.text), 0
        self._ask(0, start)
        while todo:
            begin, head, missing, place = todo.pop()
            steps += 1
            if not steps & _LOOK:
                limits.check(steps, begun)
            if missing == NONE:
                known = ends[begin * size + head]
                if place in known:
                    continue
                known.add(place)
                if place == last and begin == 0 and head == start:
                    return True
                for before, other, rest in waiting[begin * size + head]:
                    todo.append((before, other, rest, place))
            elif missing < terminals:
                for end in lex(place, missing):
                    todo.append((begin, head, NONE, end))
            else:
                self._follow(begin, head, missing, place)
        return False

    def _follow(self, begin: int, head: int, missing: int, place: int) -> None:
        """Let a rule wait for its last nonterminal at a place."""
        key = place * self.grammar.size + missing
        if key not in self.ends and not self._ask(place, missing):
            return
        self.waiting[key].append((begin, head, NONE))
        self.todo += [(begin, head, NONE, end) for end in self.ends[key]]

    def _ask(self, place: int, symbol: int) -> bool:
        """Begin to look for the words of a nonterminal at a place; return whether there may be
        any."""
        grammar, ends, waiting, todo = self.grammar, self.ends, self.waiting, self.todo
        size, terminals, nullable = grammar.size, len(grammar.terminals), grammar.nullable
        gap, last = place in self.gaps, place == len(self.text)
        byte = -1 if gap else 0 if last else 1 << self.text[place]
        if not (nullable[symbol] or grammar.first[symbol] & byte):
            return False
        asked = [symbol]
        base = place * size
        ends[base + symbol], waiting[base + symbol] = set(), []
        for one in asked:  # which grows
            if gap or nullable[one]:
                todo.append((place, one, NONE, place))
            if last:
                continue  # nothing but the empty word is left, or what the gap holds
            for left, right in grammar.rules[one - terminals]:
                if left < terminals:
                    if grammar.first[left] & byte:
                        for end in self.lexing.ends(place, left):
                            todo.append((place, one, right, end))
                    continue
                if not (nullable[left] or grammar.first[left] & byte):
                    continue
                key = base + left
                if key not in ends:
                    ends[key], waiting[key] = set(), []
                    asked.append(left)
                waiting[key].append((place, one, right))
                for end in ends[key]:
                    todo.append((place, one, right, end))
        return True
