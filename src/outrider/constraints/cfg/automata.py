"""Deterministic automata over bytes: Thompson's construction, subsets, and the least automaton."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from outrider.constraints.cfg.expressions import (
    Both,
    Byte,
    Choice,
    Expression,
    Repeat,
    Sequence,
    Without,
)
from outrider.core.errors import OptionError

MOST_STATES = 20_000
"""States of an automaton before it is made smaller; of the first form, eight times as many."""
DEAD = -1


@dataclass(frozen=True, slots=True)
class Automaton:
    """A deterministic automaton; each of its states reaches an accepting one.

    Attributes:
        classes: of each byte, the column of `rows`.
        rows: the next state for each state and class, or `DEAD`. The first state is 0; there is no
            state if no text is accepted.
        accepting: the states where a text may end.
    """

    classes: bytes
    rows: tuple[tuple[int, ...], ...]
    accepting: frozenset[int]

    def step(self, state: int, byte: int) -> int:
        """Return the state after a byte, or `DEAD`."""
        return self.rows[state][self.classes[byte]]

    def accepts(self, text: bytes) -> bool:
        """Return whether a whole text is accepted."""
        state = 0 if self.rows else DEAD
        for byte in text:
            if state == DEAD:
                return False
            state = self.step(state, byte)
        return state in self.accepting


def automaton_of(expression: Expression) -> Automaton:
    """Return the least automaton of an expression.

    Raises:
        OptionError: it has too many states.
    """
    if isinstance(expression, Both | Without):
        left, right = automaton_of(expression.left), automaton_of(expression.right)
        both = isinstance(expression, Both)
        return _product(left, right, (lambda a, b: a and b) if both else (lambda a, b: a and not b))
    parts = _Parts()
    begin, end = parts.of(expression)
    return _subsets(parts, begin, end)


def without_empty(automaton: Automaton) -> Automaton:
    """Return the automaton of the same texts without the empty one."""
    if 0 not in automaton.accepting:
        return automaton
    rows = [automaton.rows[0], *(tuple(_moved(row)) for row in automaton.rows)]
    rows[0] = rows[1]
    accepting = {state + 1 for state in automaton.accepting}
    return _least(automaton.classes, rows, accepting)


def _moved(row: tuple[int, ...]) -> Iterable[int]:
    return (state if state == DEAD else state + 1 for state in row)


@dataclass(slots=True)
class _Parts:
    """An automaton with steps of no byte, under construction.

    Attributes:
        steps: of each state, sets of bytes and the states behind them.
        free: of each state, the states that no byte leads to.
    """

    steps: list[list[tuple[int, int]]] = field(default_factory=list)
    free: list[list[int]] = field(default_factory=list)

    def new(self) -> int:
        if len(self.steps) >= 8 * MOST_STATES:
            raise _too_large()
        self.steps.append([])
        self.free.append([])
        return len(self.steps) - 1

    def of(self, expression: Expression) -> tuple[int, int]:
        """Add an expression; return its first and its last state."""
        begin = self.new()
        match expression:
            case Byte(allowed):
                end = self.new()
                self.steps[begin].append((allowed, end))
            case Sequence(parts):
                end = begin
                for part in parts:
                    first, last = self.of(part)
                    self.free[end].append(first)
                    end = last
            case Choice(parts):
                end = self.new()
                for part in parts:
                    first, last = self.of(part)
                    self.free[begin].append(first)
                    self.free[last].append(end)
            case Repeat(part, low, high):
                end = self._repeat(begin, part, low, high)
            case Both() | Without():
                end = self._embedded(begin, automaton_of(expression))
        return begin, end

    def _repeat(self, begin: int, part: Expression, low: int, high: int | None) -> int:
        place, end = begin, self.new()
        for _ in range(low):
            first, last = self.of(part)
            self.free[place].append(first)
            place = last
        if high is None:
            first, last = self.of(part)
            turn = self.new()
            self.free[place].append(turn)
            self.free[turn] += [first, end]
            self.free[last].append(turn)
            return end
        for _ in range(high - low):
            self.free[place].append(end)
            first, last = self.of(part)
            self.free[place].append(first)
            place = last
        self.free[place].append(end)
        return end

    def _embedded(self, begin: int, automaton: Automaton) -> int:
        """Add a deterministic automaton; return the state behind it."""
        own, end = [self.new() for _ in automaton.rows], self.new()
        if own:
            self.free[begin].append(own[0])
        for state, row in enumerate(automaton.rows):
            sets = dict[int, int]()
            for byte, column in enumerate(automaton.classes):
                if row[column] != DEAD:
                    sets[row[column]] = sets.get(row[column], 0) | 1 << byte
            self.steps[own[state]] += [(allowed, own[to]) for to, allowed in sets.items()]
            if state in automaton.accepting:
                self.free[own[state]].append(end)
        return end

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        found = set(states)
        waiting = list(found)
        while waiting:
            for state in self.free[waiting.pop()]:
                if state not in found:
                    found.add(state)
                    waiting.append(state)
        return frozenset(found)


def _subsets(parts: _Parts, begin: int, end: int) -> Automaton:
    """Return the automaton whose states are sets of states of `parts`."""
    sets = sorted({allowed for steps in parts.steps for allowed, _ in steps})
    classes, members = _classes(sets)
    first = parts.closure([begin])
    numbers, rows, waiting = {first: 0}, list[tuple[int, ...]](), [first]
    for states in waiting:  # which grows
        steps = [step for state in states for step in parts.steps[state]]
        row = []
        for byte in members:
            targets = [to for allowed, to in steps if allowed >> byte & 1]
            if not targets:
                row.append(DEAD)
                continue
            after = parts.closure(targets)
            if after not in numbers:
                if len(numbers) >= MOST_STATES:
                    raise _too_large()
                numbers[after] = len(numbers)
                waiting.append(after)
            row.append(numbers[after])
        rows.append(tuple(row))
    return _least(classes, rows, {number for states, number in numbers.items() if end in states})


def _classes(sets: list[int]) -> tuple[bytes, list[int]]:
    """Return the class of each byte, and one byte of each class: bytes of a class are in the same
    sets."""
    known, classes, members = dict[tuple[bool, ...], int](), bytearray(), list[int]()
    for byte in range(256):
        among = tuple(bool(one >> byte & 1) for one in sets)
        if among not in known:
            known[among] = len(known)
            members.append(byte)
        classes.append(known[among])
    return bytes(classes), members


def _product(left: Automaton, right: Automaton, accepts: Callable[[bool, bool], bool]) -> Automaton:
    """Return the automaton that runs two at once. What `left` has refused stays refused."""
    if not left.rows:
        return left
    pairs = sorted(set(zip(left.classes, right.classes, strict=True)))
    classes = bytes(pairs.index(p) for p in zip(left.classes, right.classes, strict=True))
    numbers, rows = dict[tuple[int, int], int](), list[tuple[int, ...]]()
    waiting = [(0, 0 if right.rows else DEAD)]
    numbers[waiting[0]] = 0
    for one, other in waiting:  # which grows
        row = []
        for mine, theirs in pairs:
            after = left.rows[one][mine], DEAD if other == DEAD else right.rows[other][theirs]
            if after[0] == DEAD:
                row.append(DEAD)
                continue
            if after not in numbers:
                if len(numbers) >= MOST_STATES:
                    raise _too_large()
                numbers[after] = len(numbers)
                waiting.append(after)
            row.append(numbers[after])
        rows.append(tuple(row))
    accepting = {
        number
        for (one, other), number in numbers.items()
        if accepts(one in left.accepting, other in right.accepting)
    }
    return _least(classes, rows, accepting)


def _least(classes: bytes, rows: list[tuple[int, ...]], accepting: set[int]) -> Automaton:
    """Return the least automaton of the same texts, without states that reach no accepting one."""
    live = _live(rows, accepting)
    if 0 not in live:
        return Automaton(classes, (), frozenset())
    block = [int(state in accepting) if state in live else DEAD for state in range(len(rows))]
    count = len(set(block) - {DEAD})
    while True:
        known, after = dict[tuple[int, ...], int](), list[int]()
        for state, row in enumerate(rows):
            if block[state] == DEAD:
                after.append(DEAD)
                continue
            key = (block[state], *(DEAD if to == DEAD else block[to] for to in row))
            after.append(known.setdefault(key, len(known)))
        block = after  # states are numbered as they are met, so that the first one is in block 0
        if len(known) == count:
            break
        count = len(known)
    made = dict[int, tuple[int, ...]]()
    for state, row in enumerate(rows):
        if block[state] != DEAD and block[state] not in made:
            made[block[state]] = tuple(DEAD if to == DEAD else block[to] for to in row)
    ends = frozenset(block[state] for state in accepting if block[state] != DEAD)
    return Automaton(classes, tuple(made[number] for number in range(len(made))), ends)


def _live(rows: list[tuple[int, ...]], accepting: set[int]) -> set[int]:
    """Return the states that reach an accepting one."""
    before: list[list[int]] = [[] for _ in rows]
    for state, row in enumerate(rows):
        for to in set(row) - {DEAD}:
            before[to].append(state)
    live, waiting = set(accepting), list(accepting)
    while waiting:
        for state in before[waiting.pop()]:
            if state not in live:
                live.add(state)
                waiting.append(state)
    return live


def _too_large() -> OptionError:
    return OptionError("a terminal of the grammar has too many states", hint="Simplify it")
