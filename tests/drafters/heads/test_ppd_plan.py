"""The planner of trees of parallel prompt decoding (arXiv 2405.18628)."""

from collections.abc import Iterator
from itertools import combinations, product
from math import prod

import numpy as np
import pytest

from outrider.drafters.heads.ppd_plan import (
    RankPath,
    best_paths,
    best_plan,
    chance,
    decreasing,
    ending,
    fastest_plan,
    placed,
    stationary,
)

pytestmark = pytest.mark.method("ppd")

RATES = ((0.5, 0.2, 0.1), (0.35, 0.15, 0.1), (0.2, 0.1, 0.05))


def closed_sets(rates: tuple[tuple[float, ...], ...], most: int) -> Iterator[tuple[RankPath, ...]]:
    """All trees of rank paths with at most `most` nodes."""
    paths = [
        path
        for depth in range(1, len(rates) + 1)
        for path in product(*(range(len(row)) for row in rates[:depth]))
    ]
    for count in range(most + 1):
        for chosen in combinations(paths, count):
            if all(len(path) == 1 or path[:-1] in chosen for path in chosen):
                yield chosen


def optimum(rates: tuple[tuple[float, ...], ...], rows: int) -> float:
    """The largest mean of kept guesses of all plans: trees and places of prompt tokens are choices
    of a Markov decision process, whose gain value iteration finds."""
    options: list[list[tuple[float, list[float]]]] = []
    for state in range(len(rates) + 1):
        found: list[tuple[float, list[float]]] = []
        for tree in closed_sets(rates[:state], rows):
            ends = ending(tree, rates)
            for counts in product(range(len(rates) + 1), repeat=len(ends)):
                if len(tree) + sum(counts) <= rows:
                    moves = [0.0] * (len(rates) + 1)
                    for end, count in zip(ends, counts, strict=True):
                        moves[count] += end
                    found.append((sum(chance(path, rates) for path in tree), moves))
        options.append(found)
    rewards = [np.array([reward for reward, _ in found]) for found in options]
    moves = [np.array([row for _, row in found]) for found in options]
    values, gain = np.zeros(len(rates) + 1), 0.0
    for _ in range(300):
        new = np.array([(r + m @ values).max() for r, m in zip(rewards, moves, strict=True)])
        new = 0.5 * (new + values)
        gain, values = 2 * (new[0] - values[0]), new - new[0]
    return gain


def test_the_best_paths_are_the_most_likely_ones() -> None:
    every = [p for d in (1, 2, 3) for p in product(range(3), repeat=d)]
    ranked = sorted((prod(RATES[i][r] for i, r in enumerate(p)) for p in every), reverse=True)
    for count in (1, 5, 20, 100):
        found = best_paths(RATES, count)
        assert len(found) == min(count, len(every)) == len(set(found))
        assert [chance(path, RATES) for path in found] == pytest.approx(ranked[:count])
        assert all(len(p) == 1 or p[:-1] in found[:i] for i, p in enumerate(found))
    assert best_paths((), 5) == () and best_paths(((0.0, 0.0),), 5) == ()


def test_a_round_ends_somewhere() -> None:
    for count in (0, 3, 12):
        ends = ending(best_paths(RATES, count), RATES)
        assert sum(ends) == pytest.approx(1.0) and min(ends) >= 0
    assert ending([(0,), (1,), (0, 0)], RATES) == pytest.approx([0.3, 0.325, 0.2, 0.175])


def test_prompt_tokens_go_where_the_least_is_lost() -> None:
    ends, values = [0.5, 0.3, 0.2], [0.0, 0.6, 0.9]
    losses = {
        counts: sum(e * values[c] for e, c in zip(ends, counts, strict=True))
        for counts in product(range(3), repeat=3)
    }
    for room in range(7):
        counts = placed(ends, values, room)
        fitting = [value for other, value in losses.items() if sum(other) <= room]
        assert sum(counts) <= room and losses[counts] == pytest.approx(max(fitting))


def test_shares_are_a_stationary_distribution() -> None:
    for rows in (4, 9, 16):
        plan = best_plan(RATES, rows)
        assert sum(plan.shares) == pytest.approx(1.0) and min(plan.shares) >= 0
        moves = np.zeros((4, 4))
        for state, tree in enumerate(plan.trees):
            for end, count in zip(ending(tree.paths, RATES), tree.prompts, strict=True):
                moves[state, count] += end
        assert np.array(plan.shares) @ moves == pytest.approx(np.array(plan.shares), abs=1e-6)
        means = sum(s * tree.value for s, tree in zip(plan.shares, plan.trees, strict=True))
        assert plan.value == pytest.approx(means)
    turns = np.array([[0.0, 1.0], [1.0, 0.0]])  # a cycle
    assert stationary(turns) == pytest.approx([0.5, 0.5])


def test_trees_fit_and_the_value_does_not_fall_with_the_rows() -> None:
    values = [best_plan(RATES, rows).value for rows in (1, 2, 3, 5, 6, 8, 11, 16, 20, 24)]
    assert values == sorted(values) and values[-1] > values[3] > 0
    for rows in (1, 5, 16):
        assert all(tree.rows <= rows for tree in best_plan(RATES, rows).trees)


@pytest.mark.parametrize("rates", [((0.6, 0.2), (0.4, 0.1)), ((0.3, 0.25), (0.05, 0.04))])
@pytest.mark.parametrize("rows", [2, 3, 5])
def test_plans_are_close_to_the_best_of_all(
    rates: tuple[tuple[float, ...], ...], rows: int
) -> None:
    found, best = best_plan(rates, rows).value, optimum(rates, rows)
    assert 0.95 * best <= found <= best + 1e-6


def test_measured_times_decide() -> None:
    flat = fastest_plan(RATES, lambda rows: 1.0)
    assert flat is not None and flat.rows == 48
    kink = fastest_plan(RATES, lambda rows: 1.0 if rows <= 13 else 5.0)
    assert kink is not None and kink.rows <= 12
    assert fastest_plan(RATES, lambda rows: rows) is None


def test_noise_in_the_rates_is_smoothed() -> None:
    assert decreasing([[0.3, 0.1, 0.2], [1.5, -1.0, 0.0]]) == ((0.3, 0.1, 0.1), (1.0, 0.0, 0.0))
    assert best_plan([[0.0], [0.0]], 8).value == 0
