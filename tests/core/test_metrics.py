"""Ratios from integers, and the throughput model against a simulation of what it models."""

import random
from dataclasses import fields
from itertools import pairwise

import pytest

from outrider.core import metrics
from outrider.core.counters import Counters
from outrider.core.metrics import (
    PyramidCosts,
    inner_rounds,
    predicted_speed,
    predicted_two_tier_speed,
)

SOME = Counters(
    rounds=10,
    forwards=8,
    undrafted_rounds=1,
    drafted=40,
    accepted=24,
    refused=6,
    next_tokens=10,
    cut=2,
    changed=4,
    drafted_at=[10, 10, 10, 10],
    accepted_at=[10, 8, 6],
    sources={"draft": 22, "target": 10},
    seconds={"draft": 1.0, "verify": 2.0},
)


def test_ratios() -> None:
    assert SOME.tokens == 32
    assert metrics.acceptance_rate(SOME) == 24 / 40
    assert metrics.acceptance_chance(SOME) == 24 / 30
    assert metrics.mean_accepted_length(SOME) == 34 / 10
    assert metrics.block_efficiency(SOME) == 32 / 8
    assert metrics.changed_share(SOME) == 4 / 32
    assert metrics.acceptance_at(SOME) == [1.0, 0.8, 0.6, 0.0]


def test_nothing_counted_is_zero_not_an_error() -> None:
    ratios = (
        metrics.acceptance_rate,
        metrics.acceptance_chance,
        metrics.mean_accepted_length,
        metrics.block_efficiency,
        metrics.changed_share,
    )
    assert [ratio(Counters()) for ratio in ratios] == [0.0] * 5
    assert metrics.acceptance_at(Counters()) == []
    assert metrics.acceptance_at(Counters(drafted_at=[0, 2], accepted_at=[])) == [0.0, 0.0]
    assert metrics.ratio(3.0, 0.0) == 0.0


def test_a_total_adds_every_field() -> None:
    other = Counters(
        rounds=1, drafted_at=[1, 1, 1, 1, 1], accepted_at=[1], sources={"qualifier": 3, "draft": 1}
    )
    both = metrics.total([SOME, other, SOME])
    assert both.drafted_at == [21, 21, 21, 21, 1]
    assert both.accepted_at == [21, 16, 12]
    assert both.sources == {"draft": 45, "target": 20, "qualifier": 3}
    assert both.seconds == {"draft": 2.0, "verify": 4.0}
    numbers = [f.name for f in fields(Counters) if isinstance(getattr(SOME, f.name), int)]
    assert {n: getattr(both, n) for n in numbers} == {
        n: 2 * getattr(SOME, n) + getattr(other, n) for n in numbers
    }
    assert SOME.sources == {"draft": 22, "target": 10}, "the parts stay as they were"
    assert metrics.total([]) == Counters()


# -- the throughput model ----------------------------------------------------------------------


def burst(accept: float, window: int, rng: random.Random) -> int:
    """Tokens of one round: accepted ones until the first refusal, then the next token."""
    kept = 0
    while kept < window and rng.random() < accept:
        kept += 1
    return kept + 1


def simulated_rounds(accept: float, window: int, wanted: int, rng: random.Random) -> int:
    """Rounds until `wanted` tokens are there; what the last one gives beyond them is cut."""
    rounds = collected = 0
    while collected < wanted:
        collected += burst(accept, window, rng)
        rounds += 1
    return rounds


GRID = [(0.3, 4, 6), (0.6, 2, 5), (0.6, 5, 10), (0.9, 5, 10), (0.9, 8, 3)]


@pytest.mark.parametrize(("accept", "window", "wanted"), GRID)
def test_inner_rounds_of_a_simulation(accept: float, window: int, wanted: int) -> None:
    rng, runs = random.Random(1), 20_000
    mean = sum(simulated_rounds(accept, window, wanted, rng) for _ in range(runs)) / runs
    assert inner_rounds(accept, window, wanted) == pytest.approx(mean, rel=0.02)


@pytest.mark.parametrize(("accept", "window", "wanted"), GRID)
def test_speed_of_a_simulation(accept: float, window: int, wanted: int) -> None:
    """A whole pyramid: inner rounds fill the window, the target keeps a part of it."""
    rng, rounds, accept_target = random.Random(2), 20_000, 0.7
    costs = PyramidCosts(
        draft=0.001, qualifier=0.004, target=0.02, accept_qualifier=accept, accept_target=0.7
    )
    tokens, seconds = 0, 0.0
    for _ in range(rounds):
        inner = simulated_rounds(accept, window, wanted, rng)
        seconds += inner * (window * costs.draft + costs.qualifier) + costs.target
        tokens += burst(accept_target, wanted, rng)
    assert predicted_speed(costs, window, wanted) == pytest.approx(tokens / seconds, rel=0.02)


@pytest.mark.parametrize("window", [1, 3, 7])
@pytest.mark.parametrize("wanted", [1, 2, 10])
def test_the_limits_of_acceptance(window: int, wanted: int) -> None:
    assert inner_rounds(0.0, window, wanted) == wanted, "one token of its own a round"
    assert inner_rounds(1.0, window, wanted) == -(-wanted // (window + 1)), "always a full burst"
    assert inner_rounds(0.5, 0, wanted) == wanted, "nothing drafted"
    assert metrics.expected_tokens(0.0, window) == 1.0
    assert metrics.expected_tokens(1.0, window) == window + 1
    assert metrics.expected_tokens(1 - 1e-9, window) == pytest.approx(window + 1)


def test_speeds_at_the_limits() -> None:
    assert predicted_two_tier_speed(0.001, 0.01, 0.0, 5) == pytest.approx(1 / 0.015)
    assert predicted_two_tier_speed(0.001, 0.01, 1.0, 5) == pytest.approx(6 / 0.015)
    free = PyramidCosts(draft=0.0, qualifier=0.0, target=0.0, accept_qualifier=0.5, accept_target=0)
    assert predicted_speed(free, 5, 10) == 0.0, "no time was measured"
    costs = PyramidCosts(
        draft=0.001, qualifier=0.002, target=0.01, accept_qualifier=1.0, accept_target=1.0
    )
    assert predicted_speed(costs, 4, 10) == pytest.approx(11 / (2 * 0.006 + 0.01))


def test_more_acceptance_is_never_slower() -> None:
    def speed(a: float, b: float) -> float:
        costs = PyramidCosts(
            draft=0.001, qualifier=0.004, target=0.02, accept_qualifier=a, accept_target=b
        )
        return predicted_speed(costs, 5, 10)

    grid = [i / 10 for i in range(11)]
    assert all(speed(a, 0.5) <= speed(b, 0.5) for a, b in pairwise(grid))
    assert all(speed(0.5, a) <= speed(0.5, b) for a, b in pairwise(grid))
