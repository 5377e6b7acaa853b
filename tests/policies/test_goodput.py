"""SmartSpec's rule: the number of drafted tokens with the most expected tokens per second."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.policies.goodput import PLAIN_EVERY, STANDS, Goodput, best_depths
from outrider.policies.surface import CostSurface, Forward

COSTLY = CostSurface(
    ((1, 2.9e-3), (8, 5.2e-3), (16, 8.3e-3), (32, 14.5e-3), (256, 110e-3)),
    per_sequence=0.45e-3,
)
CHANCES = st.lists(st.floats(0.0, 1.0), max_size=5).map(lambda c: sorted(c, reverse=True))


def speed(depths: tuple[int, ...], offers: list[list[float]], surface: CostSurface) -> float:
    count, drafted = len(offers), sum(depths)
    written = count + sum(sum(own[:k]) for own, k in zip(offers, depths, strict=True))
    return written / surface.seconds(count + drafted, count)


@given(st.lists(CHANCES, min_size=1, max_size=3))
def test_no_other_depths_are_expected_to_be_faster(offers: list[list[float]]) -> None:
    choice = best_depths(offers, COSTLY, margin=0.0)
    every = product(*(range(len(own) + 1) for own in offers))
    best = max(speed(depths, offers, COSTLY) for depths in every)
    assert speed(choice.depths, offers, COSTLY) == pytest.approx(best)
    assert choice.speed == pytest.approx(best)


@given(st.floats(0.05, 0.95), st.integers(1, 12))
def test_drafts_never_grow_with_the_number_of_sequences(chance: float, longest: int) -> None:
    offer = [chance ** (k + 1) for k in range(longest)]
    totals = [
        sum(best_depths([offer] * count, COSTLY).depths) / count for count in (1, 2, 4, 8, 16, 32)
    ]
    assert totals == sorted(totals, reverse=True)


def test_a_batch_that_fills_the_machine_does_not_draft() -> None:
    linear = CostSurface(((1, 1e-3), (1000, 1.0)))
    offers = [[0.6, 0.36, 0.2]] * 16
    assert best_depths(offers, linear).depths == (0,) * 16
    free = CostSurface(((1, 1e-3),))
    assert best_depths(offers, free).depths == (3,) * 16


def test_the_sequence_with_better_chances_drafts_more() -> None:
    depths = best_depths([[0.9, 0.85, 0.8, 0.75], [0.5, 0.1]], COSTLY).depths
    assert depths[0] > depths[1]


def test_drafting_must_be_worth_its_margin() -> None:
    offers = [[0.6]] * 2
    gain = best_depths(offers, COSTLY, margin=0.0)
    ratio = gain.speed / gain.plain
    assert any(best_depths(offers, COSTLY, margin=ratio - 1.001).depths)
    assert not any(best_depths(offers, COSTLY, margin=ratio - 0.999).depths)


def test_a_decision_stands_and_some_rounds_are_plain() -> None:
    goodput = Goodput(surface=CostSurface(((1, 1e-3),)))
    names, good, bad = ["a", "b"], [[0.9], [0.9]], [[], []]
    assert goodput.depths(names, lambda: good) == (1, 1)
    assert goodput.depths(names, lambda: bad) == (1, 1)  # it stands
    assert goodput.depths(["a", "c"], lambda: bad) == (0, 0)  # unless a sequence joins
    assert goodput.depths(["a", "c", "d"], lambda: [*good, [0.9]]) == (0, 0, 0)
    assert goodput.depths(["a"], lambda: good[:1]) == (1,)  # a smaller batch may draft
    seen = [goodput.depths(names, lambda: good) for _ in range(4 * PLAIN_EVERY)]
    assert seen.count((0, 0)) == 4
    assert STANDS < PLAIN_EVERY


def test_what_does_not_pay_is_tried_again_with_longer_and_longer_pauses() -> None:
    linear = CostSurface(((1, 1e-3), (1000, 1.0)))
    goodput = Goodput(surface=linear)
    tried = [at for at in range(3000) if any(goodput.depths(["a", "b"], lambda: [[0.1], [0.2]]))]
    pauses = [b - a for a, b in pairwise(tried)]
    assert 4 <= len(tried) <= 10
    assert pauses == sorted(pauses)
    assert sum(goodput.depths(["a", "b"], lambda: [[0.1], [0.2]])) <= 1


def test_the_surface_is_found_again_from_its_own_seconds() -> None:
    points = ((1, 2e-3), (8, 4e-3), (64, 20e-3))
    true = CostSurface(points, per_sequence=0.4e-3, per_token=1e-6, context=128)
    alone = {rows: true.seconds(rows, 1, 128) for rows in (1, 8, 64)}
    shapes = [
        Forward(sequences=2, rows=2, context=256),
        Forward(sequences=8, rows=8, context=1024),
        Forward(sequences=1, rows=1, context=1000),
    ]
    found = CostSurface.fitted(
        alone, [(s, true.seconds(s.rows, s.sequences, s.context)) for s in shapes], 128
    )
    assert found.per_sequence == pytest.approx(true.per_sequence)
    assert found.per_token == pytest.approx(true.per_token)
    assert found.seconds(16, 4, 800) == pytest.approx(true.seconds(16, 4, 800))
    assert found.seconds(8) == pytest.approx(alone[8])  # a text as long as the measured one


def test_a_surface_never_has_negative_costs() -> None:
    alone = {1: 2e-3, 8: 4e-3}
    faster = [(Forward(sequences=8, rows=8, context=1024), 3e-3)]
    found = CostSurface.fitted(alone, faster, 128)
    assert found.per_sequence == found.per_token == 0.0


def test_rows_within_a_time_are_the_most_that_fit() -> None:
    forward = Forward(sequences=4, rows=4, context=400)
    rows = COSTLY.rows_within(20e-3, forward, 512)
    assert COSTLY.seconds(4 + rows, 4, 400) <= 20e-3 < COSTLY.seconds(5 + rows, 4, 400)
    assert COSTLY.rows_within(0.0, forward, 512) == 0
    assert COSTLY.rows_within(9.0, forward, 512) == 512


def test_the_pace_follows_what_forwards_take_now() -> None:
    surface, forward = COSTLY, Forward(sequences=4, rows=4)
    expected = surface.seconds(4, 4)
    for _ in range(300):
        surface = surface.refreshed(2.0 * expected, forward)
    assert surface.seconds(4, 4) == pytest.approx(2.0 * expected, rel=0.02)
