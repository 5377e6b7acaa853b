"""Floors for drafted tokens: the fixed point is the fastest draft length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.counters import Counters
from outrider.policies.speed import _CAUTION, Speed

COSTS = st.lists(st.floats(0.02, 0.6), min_size=1, max_size=6)


def expected(rows: float) -> float:
    """Seconds of a forward."""
    return rows


def rounds_of(chance: float, length: int) -> float:
    """Expected tokens of a round with a chain of equally likely tokens."""
    return sum(chance**i for i in range(length + 1))


@given(chance=st.floats(0.05, 0.95), steps=COSTS)
def test_the_floors_at_the_best_speed_give_the_best_length(chance: float, steps: list) -> None:
    """Dinkelbach 1967: at the best speed, the fastest length has the largest gain."""
    verify = [1.0]
    for step in steps:
        verify.append(verify[-1] + step)
    speeds = [rounds_of(chance, k) / verify[k] for k in range(len(verify))]
    best = max(range(len(speeds)), key=speeds.__getitem__)
    speed = Speed(tokens=1e12 * speeds[best], spent=1e12)
    floors = [floor / _CAUTION for floor in speed.worth(verify, 0.0).floors]
    gains = [sum(chance ** (i + 1) - floors[i] for i in range(k)) for k in range(len(verify))]
    length = max(range(len(gains)), key=gains.__getitem__)
    assert speeds[length] == pytest.approx(speeds[best], rel=1e-6)


def test_speed_is_tokens_over_expected_time() -> None:
    speed, counters = Speed(), Counters()
    verify = [1.0, 1.5, 2.5]
    assert speed.relative == 1.0
    for _ in range(2000):  # two tokens drafted and kept, in 2.5 times the time
        counters.rounds += 1
        counters.drafted += 2
        counters.accepted += 2
        counters.next_tokens += 1
        speed.note(counters, verify, expected)
    assert speed.spent == pytest.approx(2.5 * 50, rel=1e-3)
    assert speed.relative == pytest.approx((150 + 8) / (125 + 8), rel=1e-3)
    assert speed.carried().spent == pytest.approx(16.0)
    assert speed.carried().relative == pytest.approx((16 * 1.2 + 8) / 24, rel=1e-3)


def test_several_rounds_at_once_and_lengths_between_the_costs() -> None:
    """One round is undrafted; the other three have two drafted tokens each."""
    speed = Speed()
    counters = Counters(rounds=4, undrafted_rounds=1, drafted=6, accepted=2, next_tokens=4)
    speed.note(counters, [1.0, 2.0, 4.0], expected)
    assert speed.spent == pytest.approx(1.0 + 3 * 4.0)
    assert speed.tokens == 6
    speed.note(counters, [1.0, 2.0, 4.0], expected)  # no new round
    assert speed.tokens == 6
    assert speed.relative == 1.0  # slower than undrafted: the floors are those of undrafted text


def test_a_draft_must_gain_as_much_as_another_drafter() -> None:
    speed, verify = Speed(), [1.0, 1.1, 1.2]
    # 1.8 tokens in 1.2 rounds, where undrafted decoding would write 1.2
    assert speed.surplus(1.2, 1.8 / 1.2, verify) == pytest.approx(0.6)
    assert speed.surplus(1.2, 1.0 / 1.2, verify) == 0.0


@pytest.mark.parametrize(("plain", "checked", "slower"), [(1.0, 4.5, 1.5), (2.0, 6.0, 1.0)])
def test_rounds_that_are_slower_than_expected_raise_the_floors(
    plain: float, checked: float, slower: float
) -> None:
    """A busy machine, where all rounds are slow, changes nothing."""
    speed, counters = Speed(), Counters()
    verify = [1.0, 2.0, 3.0]
    before = speed.worth(verify, 0.0).floors
    for _ in range(500):
        counters.rounds += 2
        counters.undrafted_rounds += 1
        counters.drafted += 2
        counters.next_tokens += 2
        counters.plain.note(plain, 1)
        counters.checked.note(checked, 3)
        speed.note(counters, verify, expected)
    assert speed.slower == pytest.approx(slower, rel=0.05)
    after = speed.worth(verify, 0.0).floors
    assert sum(after) == pytest.approx(_CAUTION * (3.0 * speed.slower - 1.0))
    assert after[0] >= before[0] and speed.carried().slower == speed.slower


def test_a_stall_and_further_choices_change_no_floor() -> None:
    speed, counters = Speed(), Counters()
    for i in range(200):
        counters.rounds += 2
        counters.undrafted_rounds += 1
        counters.drafted += 2
        counters.plain.note(1.0, 1)
        counters.checked.note(60.0 if i == 100 else 3.06, 3)
        speed.note(counters, [1.0, 2.0, 3.0], expected)
    assert speed.slower == pytest.approx(1.0, abs=0.02)


def test_an_empty_pace_is_no_measurement() -> None:
    speed = Speed()
    speed.note(Counters(rounds=1, next_tokens=1), [1.0, 2.0], expected)
    assert speed.slower == 1.0 and speed.plain.count == 0


def test_a_few_slow_drafts_do_not_end_drafting_for_good() -> None:
    """Their pace is counted once, and is forgotten while nothing corrects it."""
    speed, counters = Speed(), Counters()
    verify = [1.0, 1.1, 1.2]
    slowness: list[float] = []
    for i in range(400):
        counters.rounds += 1
        drafted = i < 12
        counters.undrafted_rounds += not drafted
        counters.drafted += 2 * drafted
        counters.next_tokens += 1
        (counters.checked if drafted else counters.plain).note(
            9.0 if drafted else 1.0, 3 if drafted else 1
        )
        speed.note(counters, verify, expected)
        slowness.append(speed.slower)
    assert speed.checked.count == 12
    assert max(slowness) > 1.3  # they were believed
    assert slowness[-1] == pytest.approx(1.0, abs=0.02)
