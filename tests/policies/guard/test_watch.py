"""The state machine of the guard: what it measures, when it tries again, and what it shares."""

import logging
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from benchmarks.guard.machine import Machine, Round, exact, off, steady, turning
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.policies.guard import MODES, Guard, check_mode
from outrider.policies.guard.allowance import Allowance
from outrider.policies.guard.guard import bucket, sizes
from outrider.policies.guard.paces import LOWEST, Drafted, PlainPace
from outrider.policies.guard.phase import Phase
from outrider.policies.guard.watch import (
    BURST,
    EPOCH,
    FIRST,
    FIRST_WAIT,
    FLANK,
    LAST_WAIT,
)
from outrider.strategy.catalogue import GUARD_MODES


def quiet(make: Round, **options: object) -> Machine:
    """A machine without noise."""
    return Machine(make, noise=0.0, stalls=0.0, **options)  # type: ignore[arg-type]


def losing(machine: Machine) -> bool:
    return any(state == "losing" for _, state in machine.switches)


def test_an_epoch_has_undrafted_rounds_before_and_after_it() -> None:
    found = quiet(exact(1.05)).run(200)
    plain = [n for n in range(200) if n not in found.drafted]
    first = [0, 1, FLANK + 1 + FIRST, FLANK + 2 + FIRST]  # one round more: the drafter begins
    assert plain[:4] == first
    assert plain[4:6] == [first[-1] + EPOCH + 1, first[-1] + EPOCH + 2]
    assert found.guard.report.x == pytest.approx(np.log(1.05))


def test_x_is_the_logarithm_of_the_seconds_per_token() -> None:
    found = Drafted(beside=[2.0, 2.0])
    found.add(spent=6.0, written=2.0)
    assert found.gain == pytest.approx(np.log(2.0 * 2.0 / 6.0))


def test_a_drafter_far_below_is_left_after_a_few_rounds() -> None:
    found = quiet(exact(0.3)).run(200, off)
    assert len(found.drafted) <= 1 + FIRST
    report = found.guard.report
    assert report.state == "off" and report.since == 0
    assert report.x == pytest.approx(np.log(0.3))
    assert "70% slower" in report.reason and "2.00 times the tokens" in report.reason


def test_small_losses_add_up_as_in_the_cusum_of_page() -> None:
    """S = max(0, S - x - 0.03) over epochs of 32 rounds, above 0.7."""
    for speed in (0.8, 0.93):
        found = quiet(exact(speed), guard=Guard(mode="warn")).run(1500, losing)
        epochs = 0.7 / (-np.log(speed) - 0.03)
        assert len(found.drafted) / EPOCH == pytest.approx(epochs, abs=1.3)
        assert found.guard.switches == {("losing", "drift"): 1}
    assert not quiet(exact(0.98), guard=Guard(mode="warn")).run(3000).switches


def test_trials_come_after_64_rounds_and_then_later_each_time() -> None:
    found = quiet(exact(0.97)).run(20_000)
    begun = found.switches[0][0]
    trials = [n for n in found.drafted if n > begun and n - 1 not in found.drafted]
    waits = np.diff([begun, *trials])
    assert waits[0] == FIRST_WAIT + 1
    assert all(b >= a for a, b in pairwise(waits))
    assert waits[-1] > LAST_WAIT
    first = [n for n in found.drafted if trials[0] <= n < trials[1]]
    assert len(first) == 1 + BURST


def test_two_trials_that_gain_switch_drafting_on() -> None:
    found = quiet(turning(exact(0.5), exact(1.5), 30)).run(1000)
    assert [state for _, state in found.switches] == ["off", "on"]
    (left, _), (back, _) = found.switches
    between = [n for n in found.drafted if left < n <= back]
    assert len(between) == 1 + 2 * BURST
    assert "two trials" in found.guard.report.reason and "50% faster" in found.guard.report.reason
    assert len([n for n in found.drafted if n > back]) > 0.9 * (1000 - back)


def test_one_trial_that_gains_is_not_enough() -> None:
    bad, good = exact(0.5), exact(1.5)
    trial: list[int] = []

    def make(n: int, rng: np.random.Generator) -> tuple[float, float]:
        if n > 60:
            trial.append(n)
        return (good if 0 < len(trial) <= 1 + BURST else bad)(n, rng)

    found = quiet(make).run(600)
    assert [state for _, state in found.switches] == ["off"]
    assert len(trial) > 1 + BURST


def test_a_new_kind_of_request_is_tried_at_once() -> None:
    def machine(kind: Callable[[int], str]) -> Machine:
        return quiet(exact(0.9), kind=kind).run(8000)

    alike, other = machine(lambda n: "greedy"), machine(lambda n: "sampled" if n > 5000 else "g")
    assert not [n for n in alike.drafted if 5000 < n < 5010]
    assert [n for n in other.drafted if 5000 < n < 5010]
    changing = machine(lambda n: f"kind {n}")  # as fast as they may come
    assert changing.slowest() > 0.97


def test_sizes_of_batches_are_judged_apart() -> None:
    batch = lambda n: 1 if n % 400 < 200 else 5  # noqa: E731

    def make(n: int, rng: np.random.Generator) -> tuple[float, float]:
        return exact(1.5 if batch(n) == 1 else 0.5)(n, rng)

    found = quiet(make, batch=batch).run(4000)
    assert found.guard.states == {"1": "on", "4-7": "off"}
    assert len([n for n in found.drafted if batch(n) == 1]) > 1800
    assert found.slowest() > 0.97
    assert [sizes(n) for n in (1, 2, 3, 4, 7, 8)] == ["1", "2-3", "2-3", "4-7", "4-7", "8-15"]
    assert bucket(1) == 1 and bucket(9) == 8


def test_batches_of_one_group_share_what_is_known() -> None:
    found = quiet(exact(0.5), batch=lambda n: 4 + n // 7 % 4).run(300)
    assert found.guard.states == {"4-7": "off"}


def test_the_losses_of_all_sizes_of_batches_are_limited_together() -> None:
    found = quiet(exact(0.4), batch=lambda n: 1 << (n // 50 % 8)).run(2000)
    assert found.speed() > 0.97
    assert len(found.guard.states) == 8


def test_drafts_that_gain_stay_where_others_have_used_up_the_allowance() -> None:
    found = quiet(exact(1.05)).run(200)
    found.guard._allowance.left = -1000.0
    assert not found.run(200).switches
    losing_now = quiet(turning(exact(1.5), exact(0.9), 300)).run(300)
    losing_now.guard._allowance.left = 0.0
    assert off(losing_now.run(30)), "but nothing more may be lost"


def test_a_policy_that_does_not_draft_costs_nothing() -> None:
    found = quiet(exact(0.5), asks=lambda n: False).run(3000)
    assert not found.drafted and not found.switches and found.guard.report.state == "on"
    rarely = quiet(exact(0.5), asks=lambda n: n % 50 == 0).run(3000)
    assert rarely.slowest() > 0.97


def test_a_slower_machine_is_not_the_drafters_fault() -> None:
    for factor in (0.5, 1.5, 3.0):
        found = Machine(steady(1.3), slower=lambda n, f=factor: f if n > 700 else 1.0, seed=3)
        assert not off(found.run(2500)), factor


def test_losses_that_a_slower_machine_explains_are_given_back() -> None:
    found = quiet(exact(1.02), slower=lambda n: 3.0 if n > 700 else 1.0).run(800)
    assert not found.switches and found.guard._allowance.left > 20.0


def test_a_single_stall_does_not_switch_drafting_off() -> None:
    for at in range(3, 120, 9):

        def make(n: int, rng: np.random.Generator, at: int = at) -> tuple[float, float]:
            return (2.0 / 1.3 + 500.0 * (n == at), 2.0)

        assert not off(quiet(make).run(400)), at


def test_short_rounds_are_compared_over_more_of_them() -> None:
    """A round of 0.1 ms is shorter than the time for which another process interrupts it."""
    fast = Machine(exact(0.5), noise=0.0, stalls=0.0, slower=lambda n: 1 / 300).run(1000, off)
    assert 0.03 / 4e-4 < len(fast.drafted) < 400
    assert fast.seconds[-1] * 1e-4 < 0.1
    assert fast.guard._allowance.left > 20.0, "a tenth of a second may always be lost"
    gaining = Machine(exact(1.6), noise=0.3, stalls=0.03, slower=lambda n: 1 / 300, seed=1)
    assert not off(gaining.run(4000)) and gaining.speed() > 1.5


def test_switches_do_not_flap() -> None:
    """A drafter that gains in trials and loses afterwards."""
    free: list[int] = []

    def make(n: int, rng: np.random.Generator) -> tuple[float, float]:
        free.append(n)
        recent = [m for m in free if n - m < 40]
        return exact(0.6 if len(recent) > 20 else 1.5)(n, rng)

    found = quiet(make).run(30_000)
    gaps = np.diff([n for n, state in found.switches if state == "off"])
    assert len(gaps) > 4
    assert len([n for n, _ in found.switches]) < 30_000 / 50
    assert found.slowest() > 0.97


@given(
    rounds=st.lists(
        st.tuples(
            st.integers(1, 9),
            st.booleans(),
            st.floats(0.0, 1e4, allow_nan=False),
            st.integers(0, 40),
        ),
        max_size=150,
    ),
    mode=st.sampled_from(["on", "warn"]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_clock_shows_the_state_stays_valid(rounds: list, mode: str) -> None:
    guard = Guard(mode=check_mode(mode))
    for batch, asks, seconds, tokens in rounds:
        allowed = guard.drafts(batch, lambda: "greedy")
        before = guard.report
        guard.note(batch, allowed and asks, seconds, tokens)
        watch = guard._watch(batch)
        assert watch.s >= 0.0 and guard._allowance.left <= Allowance.CAPACITY
        assert guard.report.x is None or LOWEST <= guard.report.x <= 0.3
        assert (watch.state == "off") == (watch.phase in (Phase.OFF, Phase.PROBE, Phase.CHECK))
        assert mode == "on" or watch.state in ("on", "losing")
        assert guard.report.state == before.state or guard.report.since == 0
        assert (
            before.state != "off"
            or allowed == (watch.phase in (Phase.PROBE, Phase.CHECK))
            or (watch.state == "on" or not allowed)
        )
    assert sum(guard.switches.values()) <= len(rounds)


@given(st.lists(st.tuples(st.integers(1, 16), st.floats(0.0, 1e3)), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_the_pace_lies_among_what_was_seen(seen: list) -> None:
    pace = PlainPace()
    for batch, seconds in seen:
        pace.note(batch, seconds)
        assert 0.0 < pace.seconds(batch) < float("inf")


def test_without_a_guard_to_judge_everything_may_draft(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(judges=False)
    with caplog.at_level(logging.INFO, "outrider.guard"):
        for _ in range(300):
            assert guard.drafts(1, lambda: "")
            guard.note(1, True, 100.0, 1)
        assert not caplog.records
        for _ in range(5):
            guard.failed(ValueError("first\nline"))
    assert not guard.drafts(1, lambda: "")
    assert guard.report.state == "failed" and "first line" in guard.report.reason
    assert len(caplog.records) == 2 and caplog.records[0].exc_info
    assert guard.switches == {("failed", "errors"): 1}


def test_each_switch_is_one_line_with_numbers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "outrider.guard"):
        found = quiet(turning(exact(0.5), exact(1.5), 30)).run(1000)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(found.switches) == 2
    assert lines[0].startswith("drafting is off for batches of 1: ") and "50% slower" in lines[0]
    assert sum(found.guard.switches.values()) == 2


def test_modes_are_checked() -> None:
    assert MODES == GUARD_MODES
    with pytest.raises(OptionError, match="guard is 'maybe'"):
        check_mode("maybe")
