"""Figures against values worked out by hand."""

import numpy as np
import pytest

from outrider.bench.statistics import Ratio, Spread, equal_share, first_difference, repeated_tokens


def test_a_spread_is_a_median_with_its_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([4.0, 1.0]) == Spread(2.5, 1.0, 4.0)
    assert Spread.of([]) is None


def test_a_ratio_is_the_geometric_mean() -> None:
    ratio = Ratio.of([0.5, 2.0, 1.0, 8.0])
    assert ratio is not None
    assert ratio.mean == pytest.approx(8 ** (1 / 4))
    assert (ratio.median, ratio.min, ratio.max, ratio.pairs) == (1.5, 0.5, 8.0, 4)
    assert ratio.low < ratio.mean < ratio.high


def test_equal_ratios_leave_no_doubt() -> None:
    ratio = Ratio.of([1.25] * 6)
    assert ratio is not None
    assert ratio.low == ratio.high == pytest.approx(1.25)
    assert Ratio.of([]) is None


def test_the_interval_is_the_same_each_time_and_covers_about_95_percent() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        ratio = Ratio.of(list(np.exp(rng.normal(0.3, 0.4, size=32))))
        assert ratio is not None
        covered += ratio.low <= np.exp(0.3) <= ratio.high
    assert 0.88 <= covered / 200 <= 0.99
    assert Ratio.of([1.0, 2.0, 3.0]) == Ratio.of([1.0, 2.0, 3.0])


def test_more_pairs_narrow_the_interval() -> None:
    few, many = Ratio.of([1.0, 2.0] * 4), Ratio.of([1.0, 2.0] * 40)
    assert few is not None and many is not None
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(
    ("tokens", "inside"),
    [
        ([], 0),
        (list(range(50)), 0),
        ([1] * 7, 0),
        ([1] * 9, 9),  # two 8-grams that overlap
        ([*range(8), 99, *range(8)], 16),
        ([*range(8), 99, *range(7)], 0),
        ([*range(10), 99, *range(10), 98], 20),
    ],
)
def test_tokens_inside_repeated_8_grams(tokens: list[int], inside: int) -> None:
    assert repeated_tokens(tokens) == inside


@pytest.mark.parametrize(
    ("a", "b", "first", "share"),
    [
        ([1, 2, 3], [1, 2, 3], None, 1.0),
        ([1, 2, 3], [1, 5, 3], 1, 2 / 3),
        ([1, 2], [1, 2, 3, 4], 2, 0.5),
        ([], [], None, 1.0),
    ],
)
def test_differences(a: list[int], b: list[int], first: int | None, share: float) -> None:
    assert first_difference(a, b) == first_difference(b, a) == first
    assert equal_share(a, b) == pytest.approx(share)
