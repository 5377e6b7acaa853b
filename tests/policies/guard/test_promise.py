"""The promise: at least 0.97 of the speed without drafts in any 2,000 rounds, whatever drafts."""

import numpy as np
import pytest
from benchmarks.guard.machine import Machine, alternating, off, stalling, steady, turning
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.policies.guard import Guard

PROMISE = 0.97
SPEEDS = (0.3, 0.6, 0.8)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("speed", SPEEDS)
def test_a_useless_drafter_costs_little_from_the_start(speed: float, spread: bool) -> None:
    found = Machine(steady(speed, spread), seed=1).run(6000)
    assert found.speed(0, 2000) >= PROMISE
    assert found.slowest() >= PROMISE
    assert found.switches[0][1] == "off"


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_drafter_that_turns_bad_costs_little(speed: float) -> None:
    make = turning(steady(1.3, False), steady(speed, False), 5000)
    found = Machine(make, seed=2).run(9000)
    assert found.speed(0, 5000) > 1.25
    assert found.slowest() >= PROMISE
    assert found.switches[0][0] < 5000 + 800


@pytest.mark.parametrize("speed", SPEEDS)
def test_with_noise_the_promise_holds_in_the_mean(speed: float) -> None:
    """One seed may miss it by a little: what is lost is measured with the noise of the clock."""
    make = turning(steady(1.2), steady(speed), 600)
    slowest = [Machine(make, seed=seed).run(3000).slowest() for seed in range(5)]
    assert np.mean(slowest) >= PROMISE and min(slowest) > 0.955


@pytest.mark.parametrize("every", [20, 100, 700])
@pytest.mark.parametrize("speed", SPEEDS)
def test_a_drafter_that_alternates_costs_little(speed: float, every: int) -> None:
    found = Machine(alternating(steady(1.4), steady(speed), every), seed=3).run(6000)
    assert found.slowest() >= PROMISE


def test_a_drafter_that_is_slow_at_random_costs_little() -> None:
    found = Machine(stalling(steady(1.2), 0.1, 7.0), seed=4).run(6000)
    assert found.slowest() >= PROMISE
    assert off(found)


def test_long_stalls_of_a_drafter_cost_little() -> None:
    """What a first stall did not count is counted with the second, and no trial is made that could
    meet another one before losses of that size are allowed again."""
    make = stalling(steady(1.2), 0.03, 20.0)
    slowest = [Machine(make, seed=seed).run(6000).slowest() for seed in range(6)]
    assert np.mean(slowest) >= PROMISE and min(slowest) > 0.955


@given(
    spans=st.lists(st.tuples(st.integers(1, 400), st.floats(0.25, 3.0)), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20, deadline=None)
def test_no_sequence_of_speeds_breaks_the_promise(spans: list, seed: int) -> None:
    """As long as no drafted round takes more than eight undrafted ones; see `LONGEST`."""
    speeds = [speed for count, speed in spans for _ in range(count)]

    def make(n: int, rng: np.random.Generator) -> tuple[float, float]:
        return 2.0 / speeds[n % len(speeds)], 2.0

    found = Machine(make, noise=0.05, stalls=0.0, seed=seed).run(3000)
    assert found.slowest() >= PROMISE


def test_drafts_that_gain_keep_their_gain() -> None:
    for speed in (1.2, 2.0):
        found = Machine(steady(speed), seed=5).run(3000)
        assert found.speed() > 1.0 + 0.95 * (speed - 1.0)
        assert not found.switches


def test_ten_percent_is_not_switched_off_by_noise() -> None:
    assert not any(Machine(steady(1.1, False), seed=s).run(3000, off).switches for s in range(6))


@pytest.mark.slow
def test_ten_percent_is_rarely_switched_off_in_thousands_of_epochs() -> None:
    found = [Machine(steady(1.1, False, 1.2), seed=s).run(40_000) for s in range(10)]
    assert sum(off(machine) for machine in found) <= 2
    assert min(machine.speed() for machine in found) > 1.09


DELAYS = {0.6: 4, 0.8: 8, 0.9: 20, 0.95: 60}
"""Speed: epochs of 32 drafted rounds within which 9 of 10 drafters are switched off."""


@pytest.mark.parametrize("speed", DELAYS)
def test_losses_are_detected_in_time(speed: float) -> None:
    most = DELAYS[speed] * 32
    found = [Machine(steady(speed), seed=s).run(2 * most, off) for s in range(10)]
    late = [m for m in found if not off(m) or len(m.drafted) > most]
    assert len(late) <= 1


def test_the_guard_makes_few_rounds_undrafted_where_drafts_gain() -> None:
    found = Machine(steady(1.6), seed=7).run(4000)
    assert 4000 - len(found.drafted) < 4000 / 48


def test_trials_take_less_than_one_percent() -> None:
    found = Machine(steady(0.9), seed=8).run(12000)
    begun = found.switches[0][0]
    lost = (found.seconds[-1] - found.seconds[begun]) - (found.tokens[-1] - found.tokens[begun])
    assert 0 < lost < 0.01 * (12000 - begun)
    assert len([n for n in found.drafted if n > begun]) < 0.01 * (12000 - begun) + 40


def test_a_guard_that_warns_lets_all_rounds_draft_but_the_ones_it_compares() -> None:
    found = Machine(steady(0.5), guard=Guard(mode="warn"), seed=9).run(2000)
    assert found.switches == [(found.switches[0][0], "losing")]
    assert len(found.drafted) > 1700
    assert "slower" in found.guard.report.reason
