"""A grammar as a table, so that what it allows is known by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from outrider.sampling.walk import Allowed

VOCAB = 7


@dataclass(frozen=True)
class Automaton:
    """States with the token that leads to the next one; `final` states may end the text."""

    moves: Mapping[int, Mapping[int, int]]
    final: frozenset[int]
    size: int = VOCAB

    def begin(self) -> "AutomatonMatcher":
        return AutomatonMatcher(self)


@dataclass
class AutomatonMatcher:
    grammar: Automaton
    states: list[int] = field(default_factory=lambda: [0])

    @property
    def accepting(self) -> bool:
        return self.states[-1] in self.grammar.final

    def _next(self, state: int, token: int) -> int | None:
        return self.grammar.moves.get(state, {}).get(int(token))

    def admits(self, tokens: Sequence[int]) -> int:
        state: int | None = self.states[-1]
        for count, token in enumerate(tokens):
            assert state is not None
            if (state := self._next(state, token)) is None:
                return count
        return len(tokens)

    def advance(self, tokens: Sequence[int]) -> int:
        count = self.admits(tokens)
        for token in tokens[:count]:
            state = self._next(self.states[-1], token)
            assert state is not None
            self.states.append(state)
        return count

    def retreat(self, count: int) -> None:
        assert 0 <= count < len(self.states)
        del self.states[len(self.states) - count :]

    def allowed(self) -> Allowed:
        found = np.zeros(self.grammar.size, dtype=np.bool_)
        found[list(self.grammar.moves.get(self.states[-1], {}))] = True
        return found

    def forced(self) -> list[int]:
        """A chain of single moves, the usual spelling of what must follow."""
        found, state = list[int](), self.states[-1]
        while state not in self.grammar.final and len(self.grammar.moves.get(state, {})) == 1:
            [(token, state)] = self.grammar.moves[state].items()
            found.append(token)
        return found

    def fork(self) -> "AutomatonMatcher":
        return AutomatonMatcher(self.grammar, list(self.states))


BRANCHING = Automaton(
    {
        0: {1: 1, 2: 2},
        1: {3: 3, 4: 3, 5: 4},
        2: {3: 2, 6: 3, 1: 1},
        3: {5: 4},
        4: {6: 5},
        5: {1: 0, 2: 5, 3: 5, 4: 6},
        6: {},
    },
    frozenset((5, 6)),
)
"""Choices, a chain of single moves, loops, and a state in which only the end is left."""
