"""Context-free grammars whose rules have at most two symbols, over terminals of bytes."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from outrider.constraints.cfg.automata import automaton_of, without_empty
from outrider.constraints.cfg.expressions import Expression
from outrider.constraints.cfg.terminal import Terminal
from outrider.core.errors import OptionError

NONE = -1
"""Stands for the second symbol of a rule that has one."""
MOST_RULES = 200_000


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol of a grammar that is being written: `number` counts terminals and rules apart."""

    number: int
    terminal: bool


@dataclass(frozen=True, eq=False, repr=False)
class Grammar:
    """A grammar in 2-normal form.

    Symbols are numbers: terminals first, then nonterminals. Each nonterminal has a word and is used
    by some word of the grammar.

    Attributes:
        terminals: the terminals.
        rules: of each nonterminal, the right sides of one or two symbols; `(X, NONE)` is one of one
            symbol. Rules without symbols are in `nullable`.
        nullable: of each symbol, whether it has the empty word.
        first: of each symbol, the bytes that begin its words, as a set of bits.
        shortest: of each symbol, a shortest word.
        start: the nonterminal of whole texts; None: the grammar has no word.
    """

    terminals: tuple[Terminal, ...]
    rules: tuple[tuple[tuple[int, int], ...], ...]
    nullable: tuple[bool, ...]
    first: tuple[int, ...]
    shortest: tuple[bytes, ...]
    start: int | None

    @cached_property
    def size(self) -> int:
        """The number of symbols."""
        return len(self.terminals) + len(self.rules)


@dataclass(slots=True)
class Rules:
    """A grammar that is being written; right sides may have any length."""

    expressions: dict[Expression, Symbol] = field(default_factory=dict)
    terminals: list[Terminal] = field(default_factory=list)
    sides: list[list[tuple[Symbol, ...]]] = field(default_factory=list)
    _tails: dict[tuple[Symbol, ...], Symbol] = field(default_factory=dict)
    _count: int = 0

    def terminal(self, expression: Expression, name: str) -> Symbol:
        """Return the symbol of a terminal; equal ones have one. If the empty text is one of its
        words, that is a nonterminal of nothing or the other words.

        Raises:
            OptionError: it has too many states.
        """
        if expression not in self.expressions:
            whole = automaton_of(expression)
            self.terminals.append(Terminal(name, without_empty(whole)))
            made = Symbol(len(self.terminals) - 1, True)
            self.expressions[expression] = self.optional(made) if 0 in whole.accepting else made
        return self.expressions[expression]

    def new(self, *sides: Iterable[Symbol]) -> Symbol:
        """Return a new nonterminal with these right sides."""
        self.sides.append([])
        made = Symbol(len(self.sides) - 1, False)
        for side in sides:
            self.add(made, side)
        return made

    def add(self, head: Symbol, side: Iterable[Symbol]) -> None:
        """Add a right side to a nonterminal.

        Raises:
            OptionError: there are too many rules.
        """
        known = tuple(side)
        if len(known) > 2:
            known = (known[0], self._tail(known[1:]))
        self._count += 1
        if self._count > MOST_RULES:
            raise OptionError("the grammar has too many rules", hint="Simplify it")
        self.sides[head.number].append(known)

    def _tail(self, side: tuple[Symbol, ...]) -> Symbol:
        """Return the nonterminal of the rest of a right side, which rules share."""
        if side not in self._tails:
            made = self._tails[side] = self.new()
            self.add(made, side)
        return self._tails[side]

    def optional(self, symbol: Symbol) -> Symbol:
        """Return a nonterminal of nothing or one symbol."""
        return self.new((), (symbol,))

    def star(self, symbol: Symbol, between: Symbol | None = None) -> Symbol:
        """Return a nonterminal of any number of a symbol, with `between` in between."""
        return self.optional(self.plus(symbol, between))

    def plus(self, symbol: Symbol, between: Symbol | None = None) -> Symbol:
        """Return a nonterminal of one or more of a symbol, with `between` in between."""
        made = self.new((symbol,))
        self.add(made, (symbol, made) if between is None else (symbol, between, made))
        return made

    def build(self, start: Symbol) -> Grammar:
        """Return the grammar without rules that no word uses."""
        return _built(self, self.new((start,)) if start.terminal else start)


def _built(rules: Rules, start: Symbol) -> Grammar:
    """Number the symbols that words of `start` use, and find out what they begin with."""
    shortest = _shortest(rules)
    if start not in shortest:
        return Grammar((), (), (), (), (), None)
    used, waiting = {start}, [start]
    for symbol in waiting:  # which grows
        for side in [] if symbol.terminal else rules.sides[symbol.number]:
            if all(each in shortest for each in side):
                new = [each for each in dict.fromkeys(side) if each not in used]
                used.update(new)
                waiting += new
    terminals = [symbol for symbol in waiting if symbol.terminal]
    others = [symbol for symbol in waiting if not symbol.terminal]
    numbers = {symbol: number for number, symbol in enumerate([*terminals, *others])}
    right_sides, nullable = list[tuple[tuple[int, int], ...]](), [False] * len(terminals)
    for symbol in others:
        own = dict[tuple[int, int], None]()
        for side in rules.sides[symbol.number]:
            if side and all(each in numbers for each in side):
                pair = [numbers[each] for each in side]
                own[pair[0], pair[1] if len(pair) == 2 else NONE] = None
        own.pop((numbers[symbol], NONE), None)
        right_sides.append(tuple(own))
        nullable.append(not shortest[symbol])
    kept = tuple(rules.terminals[symbol.number] for symbol in terminals)
    return Grammar(
        terminals=kept,
        rules=tuple(right_sides),
        nullable=tuple(nullable),
        first=_first(kept, right_sides, nullable),
        shortest=tuple(shortest[symbol] for symbol in numbers),
        start=numbers[start],
    )


def _shortest(rules: Rules) -> dict[Symbol, bytes]:
    """Return a shortest word of each symbol that has one."""
    found = {
        Symbol(number, True): one.shortest
        for number, one in enumerate(rules.terminals)
        if one.automaton.rows
    }

    def improve(number: int) -> bool:
        words = [
            b"".join(found[each] for each in side)
            for side in rules.sides[number]
            if all(each in found for each in side)
        ]
        if not words:
            return False
        best, symbol = min(words, key=len), Symbol(number, False)
        if symbol in found and len(best) >= len(found[symbol]):
            return False
        found[symbol] = best
        return True

    used = [[s.number for side in sides for s in side if not s.terminal] for sides in rules.sides]
    _settle(used, improve)
    return found


def _first(
    terminals: tuple[Terminal, ...],
    rules: list[tuple[tuple[int, int], ...]],
    nullable: list[bool],
) -> tuple[int, ...]:
    """Return the bytes that begin the words of each symbol."""
    count = len(terminals)
    found = [*(one.first for one in terminals), *[0] * len(rules)]

    def widen(number: int) -> bool:
        before = found[count + number]
        for left, right in rules[number]:
            found[count + number] |= found[left]
            if right != NONE and nullable[left]:
                found[count + number] |= found[right]
        return found[count + number] != before

    used = [[s - count for side in sides for s in side if s >= count] for sides in rules]
    _settle(used, widen)
    return tuple(found)


def _settle(used: list[list[int]], update: Callable[[int], bool]) -> None:
    """Update all nonterminals until none of them changes.

    Args:
        used: of each nonterminal, those that its rules use.
        update: changes the value of a nonterminal by those that it uses; returns whether it did.
    """
    users: list[list[int]] = [[] for _ in used]
    for number, others in enumerate(used):
        for other in set(others):
            users[other].append(number)
    waiting = deque(reversed(range(len(used))))  # rules that are used are mostly made later
    inside = set(waiting)
    while waiting:
        number = waiting.popleft()
        inside.discard(number)
        if update(number):
            new = [each for each in users[number] if each not in inside]
            inside.update(new)
            waiting += new
