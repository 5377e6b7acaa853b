"""A terminal of a grammar: which parts of a run of bytes are words of it, whole or in part."""

from dataclasses import dataclass, field
from functools import cached_property

from outrider.constraints.cfg.automata import DEAD, Automaton

States = frozenset[int]
"""States of an automaton that a text with gaps may have reached."""

_KEPT = 20_000
"""Answers of `Terminal.read` that are kept."""
_LIKED = [*range(48, 58), *range(97, 123), *range(65, 91), *range(32, 127), *range(256)]
"""Bytes, those first that are preferred in completions."""


@dataclass(slots=True, weakref_slot=True)
class _Store:
    read: dict[tuple[States, bytes], tuple[tuple[int, ...], States]] = field(default_factory=dict)
    reach: dict[States, States] = field(default_factory=dict)
    words: dict[int, dict[int, bytes]] = field(default_factory=dict)
    endings: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Terminal:
    """A terminal whose words are not empty.

    Attributes:
        name: its name in messages.
        automaton: of its words.
    """

    name: str
    automaton: Automaton
    _store: _Store = field(default_factory=_Store, repr=False)

    @cached_property
    def first(self) -> int:
        """The bytes that begin a word, as a set of bits."""
        if not self.automaton.rows:
            return 0
        row, classes = self.automaton.rows[0], self.automaton.classes
        return sum(1 << byte for byte in range(256) if row[classes[byte]] != DEAD)

    @cached_property
    def shortest(self) -> bytes:
        """A shortest word."""
        return self.ending(0)

    def read(self, states: States, run: bytes) -> tuple[tuple[int, ...], States]:
        """Read a run of bytes.

        Args:
            states: where its reading may begin.
            run: the bytes.

        Returns:
            After how many bytes of the run, at least one, a word may end; and the states after the
            whole run, empty if no word goes on.
        """
        known = self._store.read
        if (found := known.get((states, run))) is None:
            if len(known) >= _KEPT:
                known.clear()
            found = known[states, run] = self._read(states, run)
        return found

    def _read(self, states: States, run: bytes) -> tuple[tuple[int, ...], States]:
        rows, accepting = self.automaton.rows, self.automaton.accepting
        columns = run.translate(self.automaton.classes)
        ends = list[int]()
        if len(states) == 1:
            [state] = states
            for count, column in enumerate(columns, 1):
                state = rows[state][column]
                if state == DEAD:
                    return tuple(ends), frozenset()
                if state in accepting:
                    ends.append(count)
            return tuple(ends), frozenset((state,))
        now = set(states)
        for count, column in enumerate(columns, 1):
            now = {rows[state][column] for state in now}
            now.discard(DEAD)
            if not now:
                break
            if not accepting.isdisjoint(now):
                ends.append(count)
        return tuple(ends), frozenset(now)

    def reached(self, states: States) -> States:
        """Return the states after a gap: any bytes may follow, also none."""
        known = self._store.reach
        if (found := known.get(states)) is None:
            if len(known) >= _KEPT:
                known.clear()
            found = known[states] = frozenset(to for state in states for to in self.words(state))
        return found

    def words(self, state: int) -> dict[int, bytes]:
        """Return a shortest text from a state to each state that it reaches."""
        known = self._store.words
        if state not in known:
            rows, classes = self.automaton.rows, self.automaton.classes
            columns = {classes[byte]: byte for byte in reversed(_LIKED)}
            ranked = sorted(columns.items(), key=lambda item: _LIKED.index(item[1]))
            found, waiting = {state: b""}, [state]
            for one in waiting:  # which grows
                for column, byte in ranked:
                    to = rows[one][column]
                    if to != DEAD and to not in found:
                        found[to] = found[one] + bytes((byte,))
                        waiting.append(to)
            known[state] = found
        return known[state]

    def ending(self, state: int) -> bytes:
        """Return a shortest text that ends a word from a state."""
        known = self._store.endings
        if state not in known:
            words = self.words(state)
            found = [words[to] for to in self.automaton.accepting if to in words]
            known[state] = min(found, key=lambda word: (len(word), word))
        return known[state]
