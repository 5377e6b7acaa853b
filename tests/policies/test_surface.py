"""Cost surfaces: rows, sequences and texts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.policies.surface import CostSurface

MEASURED = st.dictionaries(st.integers(1, 64), st.floats(1e-6, 10.0), min_size=1, max_size=8)


def test_interpolates_and_goes_on() -> None:
    curve = CostSurface.of({1: 1.0, 4: 4.0, 8: 6.0})
    assert [curve.seconds(n) for n in (1, 2, 4, 6, 8, 12)] == [1.0, 2.0, 4.0, 5.0, 6.0, 8.0]
    assert curve.ratio(8) == 6.0


def test_one_point_is_a_constant() -> None:
    curve = CostSurface.of({4: 2.0})
    assert curve.seconds(1) == curve.seconds(100) == 2.0


def test_noise_is_pooled() -> None:
    assert CostSurface.of({1: 1.0, 2: 5.0, 4: 3.0, 8: 9.0}).points == (
        (1, 1.0),
        (2, 4.0),
        (4, 4.0),
        (8, 9.0),
    )


@given(MEASURED)
def test_never_falls(seconds: dict[int, float]) -> None:
    curve = CostSurface.of(seconds)
    values = [curve.seconds(n) for n in range(1, 80)]
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(values))
    assert min(seconds.values()) * (1 - 1e-9) <= values[0]


@given(MEASURED)
def test_what_is_already_monotone_is_kept(seconds: dict[int, float]) -> None:
    rows = sorted(seconds)
    rising = dict(zip(rows, sorted(seconds.values()), strict=True))
    curve = CostSurface.of(rising)
    for n, s in rising.items():
        assert curve.seconds(n) == pytest.approx(s)


@pytest.mark.parametrize("bad", [{}, {0: 1.0}, {1: 0.0}, {1: float("nan")}, {1: float("inf")}])
def test_bad_measurements_are_refused(bad: dict[int, float]) -> None:
    with pytest.raises(OptionError):
        CostSurface.of(bad)
