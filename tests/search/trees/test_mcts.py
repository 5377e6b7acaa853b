"""Monte Carlo tree search by P-UCB, against a plain version that keeps all rewards."""

import itertools
from collections.abc import Sequence
from math import log, sqrt

import pytest

from outrider.search.trees.mcts import Choice, PUcb

pytestmark = pytest.mark.method("pg-td")

DEPTH = 3
PRIORS = ((7, 0.6), (4, 0.3), (2, 0.1))


def expand(path: Sequence[int]) -> Sequence[tuple[int, float]]:
    return PRIORS if len(path) < DEPTH else ()


def reward(path: Sequence[int]) -> float:
    return (sum(step * 31**i for i, step in enumerate(path)) % 97) / 97


def plain(rollouts: int, constant: float, base: float, mean: bool) -> dict[tuple, list[float]]:
    """The rewards of each step of the tree, by its path."""
    returns: dict[tuple, list[float]] = {}
    for _ in range(rollouts):
        path: tuple[int, ...] = ()
        while len(path) < DEPTH:
            total = 1 + sum(len(returns.get((*path, step), ())) for step, _ in PRIORS)

            def worth(pair, path=path, total=total):
                step, prior = pair
                own = returns.get((*path, step), [])
                value = 0.0 if not own else sum(own) / len(own) if mean else max(own)
                beta = log((total + base + 1) / base) + constant
                return value + beta * prior * sqrt(log(total)) / (1 + len(own))

            path = (*path, max(PRIORS, key=worth)[0])
            if path not in returns:
                break
        for end in range(1, len(path) + 1):
            returns.setdefault(path[:end], []).append(reward(path))
    return returns


def steps(place: Choice, path: tuple[int, ...] = ()) -> dict[tuple, tuple[int, float]]:
    found = {path: (place.visits, place.value)} if path and place.visits else {}
    for child in place.children or []:
        found |= steps(child, (*path, child.token))
    return found


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(("constant", "base"), [(4.0, 10.0), (0.5, 2.0), (0.0, 1e6)])
def test_the_tree_is_that_of_a_plain_version(constant: float, base: float, mean: bool) -> None:
    root, tree = Choice(), PUcb(constant=constant, base=base, mean=mean)
    for _ in range(60):
        tree.rollout(root, expand, reward)
    expected = plain(60, constant, base, mean)
    found = steps(root)
    assert found.keys() == expected.keys()
    for path, rewards in expected.items():
        value = sum(rewards) / len(rewards) if mean else max(rewards)
        assert found[path] == (len(rewards), pytest.approx(value))


def test_the_first_rollout_takes_the_step_with_the_largest_prior() -> None:
    asked: list[list[int]] = []
    PUcb().rollout(Choice(), expand, lambda path: asked.append(list(path)) or 0.0)
    assert asked == [[7]]


def test_priors_count_from_the_second_visit() -> None:
    low, high = Choice(1, prior=0.1), Choice(2, prior=0.9)
    place = Choice(children=[low, high])
    assert PUcb().pick(place) is low  # ln 1 = 0, so all steps are equal
    low.visits = 1
    assert PUcb().pick(place) is high


def test_a_rollout_adds_one_step() -> None:
    root, tree = Choice(), PUcb()
    for count in range(1, 12):
        tree.rollout(root, expand, reward)
        found = steps(root)
        assert sum(visits for path, (visits, _) in found.items() if len(path) == 1) == count
        assert len(found) <= count


def test_negative_rewards_are_kept() -> None:
    root = Choice()
    PUcb().rollout(root, expand, lambda path: -2.0)
    assert steps(root) == {(7,): (1, -2.0)}


def test_a_root_without_steps_is_evaluated_itself() -> None:
    asked: list[list[int]] = []
    value = PUcb().rollout(Choice(), lambda path: (), lambda path: asked.append(list(path)) or 0.5)
    assert value == 0.5 and asked == [[]]


def test_many_rollouts_find_the_best_path() -> None:
    root, tree = Choice(), PUcb()
    best = max(tree.rollout(root, expand, reward) for _ in range(200))
    paths = itertools.product([step for step, _ in PRIORS], repeat=DEPTH)
    assert best == max(reward(path) for path in paths)
