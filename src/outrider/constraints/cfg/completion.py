"""The bytes that complete a text with gaps, as few as possible.

The items of `emptiness.py`, found in the order of the bytes that they put into gaps (Knuth 1977),
each with the items that it is made of. Those of the first item over the whole text are the
completion.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from time import perf_counter
from typing import NamedTuple

from outrider.constraints.cfg.automata import DEAD
from outrider.constraints.cfg.emptiness import CheckLimits
from outrider.constraints.cfg.grammar import NONE, Grammar
from outrider.constraints.cfg.pattern import Pattern
from outrider.constraints.cfg.terminal import Terminal

Fills = tuple[tuple[int, bytes], ...]
"""Bytes that a word puts into gaps, by their places, in order."""


class _Word(NamedTuple):
    """A word of a terminal, or the shortest word of a nonterminal in a gap.

    Attributes:
        end: where it ends.
        fills: its bytes in gaps.
        cost: how many these are.
    """

    end: int
    fills: Fills
    cost: int


class _Part(NamedTuple):
    """What an item is made of: bytes in gaps, and other items before them and behind them."""

    before: tuple[int, int] | None
    fills: Fills
    behind: tuple[int, int] | None


class _Task(NamedTuple):
    """A part of a rule, as it waits for its turn.

    Attributes:
        cost: its bytes in gaps.
        turn: a number of its own.
        begin: where it begins.
        head: the nonterminal of the rule.
        missing: the symbol that is missing, or NONE.
        place: where the part ends.
        part: what it is made of so far.
    """

    cost: int
    turn: int
    begin: int
    head: int
    missing: int
    place: int
    part: _Part


def shortest_fill(
    grammar: Grammar, pattern: Pattern, limits: CheckLimits | None = None
) -> dict[int, bytes] | None:
    """Return the fewest bytes for the gaps of a pattern that make it a word of a grammar.

    Returns:
        The bytes of each gap that is not left empty, by its place; None if there is no completion.

    Raises:
        GrammarError: a limit is exceeded.
    """
    if grammar.start is None:
        return None
    return _Cheapest(grammar, pattern).run(limits or CheckLimits())


@dataclass(slots=True)
class _Cheapest:
    """The items of one pattern, each by its cheapest derivation."""

    grammar: Grammar
    pattern: Pattern
    found: dict[int, dict[int, tuple[int, _Part]]] = field(default_factory=dict)
    waiting: dict[int, list[tuple[int, int, int, _Part | None, int]]] = field(default_factory=dict)
    todo: list[_Task] = field(default_factory=list)
    turns: Iterator[int] = field(default_factory=count)
    words: dict[tuple[int, Terminal], list[_Word]] = field(default_factory=dict)

    def run(self, limits: CheckLimits) -> dict[int, bytes] | None:
        """Return the bytes of each gap; None if there is no completion."""
        grammar, begun, last = self.grammar, perf_counter(), len(self.pattern.text)
        assert grammar.start is not None
        goal, terminals = grammar.start, len(grammar.terminals)
        self._ask(0, goal)
        steps = 0
        while self.todo:
            task = heappop(self.todo)
            steps += 1
            if not steps & 1023:
                limits.check(steps, begun)
            if task.missing == NONE:
                key = self._key(task.begin, task.head)
                if task.place in self.found[key]:
                    continue
                self.found[key][task.place] = task.cost, task.part
                if (task.begin, task.head, task.place) == (0, goal, last):
                    return self._fills(key, last)
                for waiter in self.waiting[key]:
                    self._resume(waiter, key, task.place, task.cost)
            elif task.missing < terminals:
                for word in self._words(task.place, grammar.terminals[task.missing]):
                    part = task.part._replace(fills=task.part.fills + word.fills)
                    self._add(task.cost + word.cost, task, NONE, word.end, part)
            else:
                key = self._key(task.place, task.missing)
                if key not in self.found:
                    self._ask(task.place, task.missing)
                waiter = task.begin, task.head, NONE, task.part, task.cost
                self.waiting[key].append(waiter)
                for end, (cost, _) in list(self.found[key].items()):
                    self._resume(waiter, key, end, cost)
        return None

    def _key(self, place: int, symbol: int) -> int:
        return place * self.grammar.size + symbol

    def _resume(
        self, waiter: tuple[int, int, int, _Part | None, int], key: int, end: int, cost: int
    ) -> None:
        """Go on with a rule behind an item that it waits for."""
        begin, head, missing, first, before = waiter
        own = key, end
        part = _Part(own, (), None) if first is None else first._replace(behind=own)
        task = _Task(before + cost, next(self.turns), begin, head, missing, end, part)
        heappush(self.todo, task)

    def _add(self, cost: int, task: _Task, missing: int, end: int, part: _Part) -> None:
        made = _Task(cost, next(self.turns), task.begin, task.head, missing, end, part)
        heappush(self.todo, made)

    def _ask(self, place: int, symbol: int) -> None:
        """Begin to look for the words of a nonterminal at a place."""
        grammar, terminals = self.grammar, len(self.grammar.terminals)
        gap = place in self.pattern.gaps
        asked = [symbol]
        self.found[self._key(place, symbol)], self.waiting[self._key(place, symbol)] = {}, []
        for one in asked:  # which grows
            if gap or grammar.nullable[one]:
                word = grammar.shortest[one]
                part = _Part(None, ((place, word),) if word else (), None)
                task = _Task(len(word), next(self.turns), place, one, NONE, place, part)
                heappush(self.todo, task)
            if place == len(self.pattern.text):
                continue
            for left, right in grammar.rules[one - terminals]:
                if left < terminals:
                    for word in self._words(place, grammar.terminals[left]):
                        part = _Part(None, word.fills, None)
                        turn = next(self.turns)
                        task = _Task(word.cost, turn, place, one, right, word.end, part)
                        heappush(self.todo, task)
                    continue
                key = self._key(place, left)
                if key not in self.found:
                    self.found[key], self.waiting[key] = {}, []
                    asked.append(left)
                waiter = place, one, right, None, 0
                self.waiting[key].append(waiter)
                for end, (cost, _) in list(self.found[key].items()):
                    self._resume(waiter, key, end, cost)

    def _words(self, place: int, terminal: Terminal) -> list[_Word]:
        """Return the words of a terminal that begin at a place, one for each end."""
        key = place, terminal
        if key not in self.words:
            self.words[key] = words_from(self.pattern, place, terminal)
        return self.words[key]

    def _fills(self, key: int, end: int) -> dict[int, bytes]:
        """Return the bytes of an item in gaps, from left to right."""
        found = dict[int, bytes]()
        waiting = [self.found[key][end][1]]
        while waiting:
            part = waiting.pop()
            if part.before is None:
                for gap, data in part.fills:
                    found[gap] = found.get(gap, b"") + data
                if part.behind is not None:
                    waiting.append(self._part(part.behind))
            else:
                waiting += [part._replace(before=None), self._part(part.before)]
        return found

    def _part(self, item: tuple[int, int]) -> _Part:
        return self.found[item[0]][item[1]][1]


def words_from(pattern: Pattern, place: int, terminal: Terminal) -> list[_Word]:
    """Return the words of a terminal that begin at a place: for each end, one with the fewest bytes
    in gaps."""
    found = dict[int, _Word]()
    now: dict[int, tuple[int, Fills]] = {0: (0, ())}
    rows, classes = terminal.automaton.rows, terminal.automaton.classes
    gaps = frozenset(pattern.gaps)
    for at in range(place, len(pattern.text) + 1):
        if at in gaps:
            for state, (cost, fills) in now.items():
                word = terminal.ending(state)
                if word or at > place:
                    _keep(found, _extended(at, cost, fills, word, at))
            after = dict[int, tuple[int, Fills]]()
            for state, (cost, fills) in now.items():
                for to, word in terminal.words(state).items():
                    one = _extended(at, cost, fills, word, at)
                    if to not in after or one.cost < after[to][0]:
                        after[to] = one.cost, one.fills
            now = after
        elif at > place:
            for state, (cost, fills) in now.items():
                if state in terminal.automaton.accepting:
                    _keep(found, _Word(at, fills, cost))
        if at == len(pattern.text) or not now:
            break
        column = classes[pattern.text[at]]
        stepped = dict[int, tuple[int, Fills]]()
        for state, one in now.items():
            to = rows[state][column]
            if to != DEAD and (to not in stepped or one[0] < stepped[to][0]):
                stepped[to] = one
        now = stepped
    return list(found.values())


def _extended(end: int, cost: int, fills: Fills, word: bytes, gap: int) -> _Word:
    more = ((gap, word),) if word else ()
    return _Word(end, fills + more, cost + len(word))


def _keep(found: dict[int, _Word], word: _Word) -> None:
    if word.end not in found or word.cost < found[word.end].cost:
        found[word.end] = word
