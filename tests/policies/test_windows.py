"""Which tiers pay, by the recursion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.metrics import PyramidCosts, predicted_speed, predicted_two_tier_speed
from outrider.policies import CostSurface
from outrider.policies.windows import (
    Chances,
    best_windows,
    three_tiers,
    token_seconds,
    two_tiers,
    undrafted,
)

COSTS = st.floats(0.01, 30.0)
CHANCE = st.floats(0.0, 1.0)


def flat(seconds: float, slope: float = 0.02) -> CostSurface:
    return CostSurface.of({1: seconds, 33: seconds * (1 + 32 * slope)})


def pyramid_speed(target, qualifier, draft, chances, wide, deep) -> float:
    costs = PyramidCosts(
        draft=draft,
        qualifier=qualifier.seconds(deep + 1),
        target=target.seconds(wide + 1),
        accept_qualifier=chances.inner,
        accept_target=chances.qualifier,
    )
    return predicted_speed(costs, deep, wide)


@given(COSTS, COSTS, COSTS, CHANCE, CHANCE, CHANCE, st.integers(1, 16), st.integers(0, 8))
def test_three_tiers_never_where_a_loss_is_predicted(
    t, q, d, a_draft, a_qualifier, a_inner, wide, deep
) -> None:
    target, qualifier = flat(t), flat(q)
    chances = Chances(draft=a_draft, qualifier=a_qualifier, inner=a_inner)
    best = best_windows(target, qualifier, d, chances)
    pair = max(predicted_two_tier_speed(d, target.seconds(k + 1), a_draft, k) for k in range(1, 17))
    alone = 1.0 / target.seconds(1)
    assert best.speed >= max(pair, alone) * (1 - 1e-12)
    if len(best.lengths) == 2:
        assert best.speed > max(pair, alone)
        assert best.speed == pyramid_speed(target, qualifier, d, chances, *best.lengths)
        other = pyramid_speed(target, qualifier, d, chances, max(wide, deep), deep)
        assert best.speed >= other * (1 - 1e-12)


def test_each_answer_is_reached() -> None:
    target, chances = flat(20.0), Chances(draft=0.5, qualifier=0.85, inner=0.8)
    assert best_windows(flat(1.0), flat(2.0), 3.0, chances).lengths == ()
    assert len(best_windows(target, flat(18.0), 1.0, chances).lengths) == 1
    wide, deep = best_windows(target, flat(4.0), 1.0, chances).lengths
    assert wide > deep > 0, "costs 20:4:1, where three tiers win"
    assert best_windows(target, flat(1.0), 3.0, chances).lengths[1] == 0, "a draft dearer than it"


def test_a_further_tier_must_promise_the_margin() -> None:
    target, qualifier = flat(20.0), flat(4.0)
    chances = Chances(draft=0.5, qualifier=0.85, inner=0.8)
    two = two_tiers(target, 1.0, chances.draft)
    three = three_tiers(target, qualifier, 1.0, chances)
    assert three.speed > two.speed > undrafted(target).speed
    margin = three.speed / two.speed - 1.0
    assert best_windows(target, qualifier, 1.0, chances, margin * 0.99) == three
    assert best_windows(target, qualifier, 1.0, chances, margin * 1.01) == two


def test_seconds_of_a_qualified_token() -> None:
    assert token_seconds(flat(4.0), 1.0, 0.0) == pytest.approx(4.0), "the qualifier writes alone"
    assert token_seconds(flat(4.0, 0.0), 0.0, 1.0) == pytest.approx(4.0 / 9)
