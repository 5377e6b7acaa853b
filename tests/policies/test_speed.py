"""Floors for drafted tokens: the fixed point is the fastest draft length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.counters import Counters
from outrider.policies.speed import _CAUTION, Speed

COSTS = st.lists(st.floats(0.02, 0.6), min_size=1, max_size=6)


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
        speed.note(counters, verify)
    assert speed.spent == pytest.approx(2.5 * 50, rel=1e-3)
    assert speed.relative == pytest.approx((150 + 8) / (125 + 8), rel=1e-3)
    assert speed.carried().spent == pytest.approx(16.0)
    assert speed.carried().relative == pytest.approx((16 * 1.2 + 8) / 24, rel=1e-3)


def test_several_rounds_at_once_and_lengths_between_the_costs() -> None:
    speed, counters = Speed(), Counters(rounds=4, drafted=6, accepted=2, next_tokens=4)
    speed.note(counters, [1.0, 2.0, 4.0])
    assert speed.spent == pytest.approx(4 * 3.0)
    assert speed.tokens == 6
    speed.note(counters, [1.0, 2.0, 4.0])  # no new round
    assert speed.tokens == 6
    assert speed.relative == 1.0  # slower than undrafted: the floors are those of undrafted text


def test_a_draft_must_gain_as_much_as_another_drafter() -> None:
    speed, verify = Speed(), [1.0, 1.1, 1.2]
    # 1.8 tokens in 1.2 rounds, where undrafted decoding would write 1.2
    assert speed.surplus(1.2, 1.8 / 1.2, verify) == pytest.approx(0.6)
    assert speed.surplus(1.2, 1.0 / 1.2, verify) == 0.0
