"""Which guesses and prompt tokens a round of `ppd` verifies: a plan for one device.

Chen et al., "Hardware-Aware Parallel Prompt Decoding" (arXiv 2405.18628). After a round, the number
of prompt tokens below the last kept token is the *state* d of the next round: how many tokens ahead
there are guesses. Each state has its own tree, and the places of prompt tokens in it decide which
states follow.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

Rates = Sequence[Sequence[float]]
"""`[prompts][ranks]`: how often the guess of each rank is right, by how far ahead it is."""

RankPath = tuple[int, ...]
"""A guess by the ranks on its way from the text: (0, 2) is the third guess after the first."""

SIZES = (4, 6, 8, 12, 16, 24, 32, 48)
"""Numbers of rows that are tried."""
_EACH_SIZE = 8
"""Up to this number of nodes every number is tried; above, every fourth."""
_STEPS = 12


@dataclass(frozen=True, slots=True)
class StateTree:
    """The tree of one state.

    Attributes:
        paths: the guesses, most likely first; each comes after its parent.
        prompts: number of prompt tokens below the text, then below each guess.
        value: expected number of kept guesses.
    """

    paths: tuple[RankPath, ...]
    prompts: tuple[int, ...]
    value: float

    @property
    def rows(self) -> int:
        """Guesses and prompt tokens."""
        return len(self.paths) + sum(self.prompts)


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """Trees of all states, of at most `rows` rows each.

    Attributes:
        trees: by state, from 0 (no guesses) to the number of prompt tokens.
        shares: share of the rounds in each state.
        value: expected number of kept guesses of a round.
        rows: the limit.
    """

    trees: tuple[StateTree, ...]
    shares: tuple[float, ...]
    value: float
    rows: int


def decreasing(rates: Rates) -> tuple[tuple[float, ...], ...]:
    """Return rates that do not rise with the rank, as noise in a measurement may make them."""
    return tuple(tuple(np.minimum.accumulate(np.clip(row, 0.0, 1.0)).tolist()) for row in rates)


def chance(path: RankPath, rates: Rates) -> float:
    """Return the chance that all guesses of a path are right."""
    return prod(rates[depth][rank] for depth, rank in enumerate(path))


def best_paths(rates: Rates, count: int) -> tuple[RankPath, ...]:
    """Return the `count` most likely paths, most likely first; fewer if there are no more.

    A path is at most as likely as its parent and as its sibling of the rank before, so a search
    from the first guess finds them in order.
    """
    found: list[RankPath] = []
    heap: list[tuple[float, RankPath]] = []

    def push(path: RankPath) -> None:
        if len(path) <= len(rates) and path[-1] < len(rates[len(path) - 1]):
            likely = chance(path, rates)
            if likely > 0:
                heapq.heappush(heap, (-likely, path))

    if rates:
        push((0,))
    while heap and len(found) < count:
        _, path = heapq.heappop(heap)
        found.append(path)
        push((*path, 0))
        push((*path[:-1], path[-1] + 1))
    return tuple(found)


def ending(paths: Sequence[RankPath], rates: Rates) -> list[float]:
    """Return the chance that a round ends at the text, then at each path: its own chance without
    those of its children."""
    left = {(): 1.0} | {path: chance(path, rates) for path in paths}
    for path in paths:
        left[path[:-1]] -= chance(path, rates)
    return [max(value, 0.0) for value in left.values()]


def placed(ends: Sequence[float], values: Sequence[float], room: int) -> tuple[int, ...]:
    """Return the numbers of prompt tokens: as many as states everywhere, then fewer where the least
    is lost, until they fit.

    Args:
        ends: chance that the round ends at each place.
        values: value of each state.
        room: largest number of prompt tokens together.
    """
    most = len(values) - 1
    counts = [most] * len(ends)

    def loss(place: int) -> float:
        return ends[place] * (values[counts[place]] - values[counts[place] - 1])

    heap = [(loss(place), -place) for place in range(len(ends)) if most]
    heapq.heapify(heap)
    for _ in range(max(sum(counts) - room, 0)):
        _, negative = heapq.heappop(heap)
        counts[-negative] -= 1
        if counts[-negative]:
            heapq.heappush(heap, (loss(-negative), negative))
    return tuple(counts)


def stationary(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares of rounds in each state, of a chain that starts in state 0.

    Args:
        moves: `[states, states]` chance of the next state (column) after each state (row).
    """
    lazy = 0.5 * (moves + np.eye(len(moves)))  # has the same shares, and no cycles
    for _ in range(40):
        lazy = lazy @ lazy
        lazy /= lazy.sum(axis=1, keepdims=True)
    return lazy[0]


def shaped(paths: Sequence[RankPath], rates: Rates, rows: int, worth: Sequence[float]) -> StateTree:
    """Return the tree with these guesses, and prompt tokens in the other rows.

    Args:
        paths: the guesses, at most `rows`.
        rates: how often guesses are right.
        rows: guesses and prompt tokens.
        worth: value of each next state.
    """
    prompts = placed(ending(paths, rates), worth, rows - len(paths))
    return StateTree(tuple(paths), prompts, sum(chance(path, rates) for path in paths))


def moves_of(tree: StateTree, rates: Rates) -> NDArray[np.float64]:
    """Return the chance of each next state after a round with this tree, `[states]`."""
    moves = np.zeros(len(rates) + 1)
    for end, count in zip(ending(tree.paths, rates), tree.prompts, strict=True):
        moves[count] += end
    return moves


def evaluated(trees: Sequence[StateTree], rates: Rates, rows: int) -> PromptPlan:
    """Return the plan of these trees, one for each state."""
    shares = stationary(np.array([moves_of(tree, rates) for tree in trees]))
    value = float(shares @ np.array([tree.value for tree in trees]))
    return PromptPlan(tuple(trees), tuple(shares.tolist()), value, rows)


def worths(plan: PromptPlan, rates: Rates) -> list[float]:
    """Return by how much more a plan keeps, over all later rounds, from each state than from state
    0: the relative values of its Markov chain."""
    moves = np.array([moves_of(tree, rates) for tree in plan.trees])
    states = len(moves)
    system = np.zeros((states + 1, states + 1))
    system[:states, :states] = np.eye(states) - moves
    system[:states, states] = 1.0
    system[states, 0] = 1.0
    values = np.array([*(tree.value for tree in plan.trees), 0.0])
    return np.linalg.lstsq(system, values)[0][:states].tolist()


@lru_cache(maxsize=64)
def _planned(rates: tuple[tuple[float, ...], ...], rows: int) -> PromptPlan:
    """Return the best plan of at most `rows` rows that policy iteration finds.

    The paper weighs a prompt token by the guesses that it brings in the next round. This is the
    first step here; the later ones weigh it by all later rounds.
    """
    tried = [n for n in range(1, rows + 1) if n <= _EACH_SIZE or n % 4 == 0]
    paths = [
        [best_paths(rates[:state], n) for n in tried if state] or [()]
        for state in range(len(rates) + 1)
    ]
    worth = [sum(chance(path, rates) for path in own[len(own) // 2]) for own in paths]
    best: PromptPlan | None = None
    for _ in range(_STEPS):
        trees = [
            max(
                (shaped(own, rates, rows, worth) for own in options),
                key=lambda tree: tree.value + float(moves_of(tree, rates) @ np.array(worth)),
            )
            for options in paths
        ]
        found = evaluated(trees, rates, rows)
        if best is not None and found.value <= best.value + 1e-9:
            return best
        best, worth = found, worths(found, rates)
    assert best is not None  # there is at least one step
    return best


def best_plan(rates: Rates, rows: int) -> PromptPlan:
    """Return the best plan of at most `rows` rows (at least 1) in each state.

    A plan for fewer rows is also one for more, so the value does not fall with `rows`.
    """
    known = decreasing(rates)
    limits = sorted({1, *(size for size in SIZES if size < rows), rows})
    return max((_planned(known, limit) for limit in limits), key=lambda plan: plan.value)


def fastest_plan(rates: Rates, seconds: Callable[[float], float]) -> PromptPlan | None:
    """Return the plan with the most tokens a second; None if no plan is faster than no draft.

    Args:
        rates: how often guesses are right.
        seconds: time of a forward by its number of rows.
    """
    best, speed = None, 1.0 / seconds(1)
    for rows in SIZES:
        plan = best_plan(rates, rows)
        found = (1.0 + plan.value) / seconds(1 + plan.rows)
        if found > speed:
            best, speed = plan, found
    return best
