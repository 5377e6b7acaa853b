"""A grammar as a table, so that what it allows is known by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from outrider.sampling.walk import Allowed

VOCAB = 7


@dataclass(frozen=True)
class Automaton:
    """States with the token that leads to the next one; `final` states may end the text.

    As with llguidance, a state whose bytes are certain has a `usual` token: it is the only one that
    is allowed there, though other tokens spell the same bytes and are admitted.
    """

    moves: Mapping[int, Mapping[int, int]]
    final: frozenset[int]
    size: int = VOCAB
    usual: Mapping[int, int] = field(default_factory=dict[int, int])

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
        found, state = np.zeros(self.grammar.size, dtype=np.bool_), self.states[-1]
        usual = self.grammar.usual.get(state)
        found[list(self.grammar.moves.get(state, {})) if usual is None else usual] = True
        return found

    def forced(self) -> list[int]:
        """A chain of single moves, the usual spelling of what must follow."""
        found, state = list[int](), self.states[-1]
        while state not in self.grammar.final:
            moves, usual = self.grammar.moves.get(state, {}), self.grammar.usual.get(state)
            if usual is None and len(moves) != 1:
                break
            token = next(iter(moves)) if usual is None else usual
            found.append(token)
            state = moves[token]
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

SPELLED = Automaton(
    {**BRANCHING.moves, 3: {5: 4, 1: 7, 2: 7}, 7: {2: 4}}, BRANCHING.final, usual={3: 5}
)
"""The same, and tokens of the chain can be spelled in other ways."""
