"""A head is left out where its drafts cost more than they gain (`drafters/neural/asks.py`)."""

import pytest

from outrider.drafters.neural.asks import FIRST, LONGEST, MEMORY, TRIAL, WAIT, Asks


def asked(asks: Asks, gain: float, times: int) -> list[bool]:
    """Ask so many times; return whether the head ran."""
    ran: list[bool] = []
    for _ in range(times):
        ran.append(asks.pays())
        if ran[-1]:
            asks.note(gain)
    return ran


def test_a_head_that_loses_is_left_out_after_its_first_asks() -> None:
    ran = asked(Asks(), -0.1, FIRST + WAIT)
    assert ran == [True] * FIRST + [False] * WAIT


def test_a_head_that_gains_runs_always() -> None:
    assert all(asked(Asks(), 0.01, 2000))


def test_trials_come_later_each_time() -> None:
    ran = asked(Asks(), -0.1, 20_000)
    text = "".join("x" if one else "-" for one in ran[FIRST:])
    waits = [len(part) for part in text.split("x" * TRIAL)][:-1]
    assert waits[:4] == [WAIT, 2 * WAIT, 4 * WAIT, 8 * WAIT]
    assert set(waits[4:]) == {LONGEST}
    assert ran.count(True) < 0.02 * len(ran) + FIRST + 5 * TRIAL


def test_a_trial_that_gains_brings_the_head_back() -> None:
    asks = Asks()
    asked(asks, -0.1, FIRST + WAIT)
    assert all(asked(asks, 0.1, TRIAL + 500))
    assert not asks.off


def test_old_gains_fade() -> None:
    asks = Asks()
    asked(asks, 1.0, 5000)
    ran = asked(asks, -1.0, 2 * MEMORY)
    assert not ran[-1], "64 asks are remembered, not all"
    mixed = Asks()
    for i in range(2000):  # one of three gains more than the others lose
        assert mixed.pays()
        mixed.note(1.0 if i % 3 == 0 else -0.4)


def test_a_stall_of_the_machine_counts_twice_the_usual_time() -> None:
    asks = Asks()
    assert asks.seconds(0.001) == 0.001
    assert asks.seconds(0.5) == pytest.approx(0.002)
    assert asks.seconds(0.001) == pytest.approx(0.001)
