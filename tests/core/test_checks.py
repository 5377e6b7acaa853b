"""Ranges of options."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.checks import AT_LEAST_ONE, SHARE, ZERO_OR_MORE, Range, check_ranges
from outrider.core.errors import OptionError

BOUNDS = st.integers(-5, 5) | st.floats(-5, 5) | st.sampled_from([-math.inf, math.inf])


def holds(allowed: Range, value: object) -> bool:
    try:
        allowed.check("x", value)
    except OptionError:
        return False
    return True


@given(BOUNDS, BOUNDS, st.booleans(), st.booleans(), st.data())
def test_bounds_are_included_unless_they_are_said_not_to_be(
    low: float, high: float, above: bool, below: bool, data: Any
) -> None:
    allowed = Range(low, high, above=above, below=below)
    value = data.draw(BOUNDS | st.sampled_from([low, high]))
    expected = (low < value if above else low <= value) and (
        value < high if below else value <= high
    )
    assert holds(allowed, value) == expected


@pytest.mark.parametrize("kind", [int, float, Fraction, np.int64, np.float32, np.float64])
def test_all_real_numbers_are_compared_alike(kind: Any) -> None:
    allowed = Range(0, 2, above=True, below=True)
    assert [holds(allowed, kind(value)) for value in (-1, 0, 1, 2, 3)] == [False] * 2 + [
        True,
        False,
        False,
    ]


@given(BOUNDS, BOUNDS, st.booleans(), st.booleans())
def test_nan_is_in_no_range(low: float, high: float, above: bool, below: bool) -> None:
    for nan in (math.nan, np.float32("nan")):
        for allowed in (Range(), Range(low, high, above=above, below=below)):
            with pytest.raises(OptionError, match="x is nan"):
                allowed.check("x", nan)


def test_infinity_is_a_number_unless_the_bound_is_excluded() -> None:
    assert holds(Range(0), math.inf) and holds(Range(), -math.inf)
    assert not holds(Range(0, below=True), math.inf)
    assert not holds(Range(0, 1e30), math.inf)


@given(st.integers(10**400, 10**401))
def test_whole_numbers_may_be_larger_than_any_float(value: int) -> None:
    assert holds(Range(1, whole=True), value)
    assert not holds(Range(1, whole=True), -value)
    assert not holds(Range(1, 1e30), value)


@pytest.mark.parametrize("value", [10**60, -(10**5000)], ids=["long", "endless"])
def test_a_number_of_many_digits_is_not_written_out(value: int) -> None:
    with pytest.raises(OptionError, match="x is a whole number of more than 60 digits") as caught:
        Range(-5, 5).check("x", value)
    assert len(str(caught.value)) < 120


def test_whole_numbers_have_a_whole_type() -> None:
    allowed = Range(0, whole=True)
    assert holds(allowed, 3) and holds(allowed, np.int32(3))
    for value in (3.0, 2.5, np.float64(3), Fraction(3), "3", None):
        with pytest.raises(OptionError, match="Give a whole number"):
            allowed.check("x", value)


@pytest.mark.parametrize("value", [True, False, np.True_, "1", None, [1], 1j, {}])
def test_what_is_no_number_is_refused(value: object) -> None:
    for allowed in (Range(), AT_LEAST_ONE):
        with pytest.raises(OptionError) as caught:
            allowed.check("x", value)
        assert str(caught.value) == f"x is {value!r}. Give a number"
    assert not holds(Range(whole=True), value)


def test_none_is_taken_where_the_option_may_be_left_out() -> None:
    allowed = Range(1, optional=True)
    assert holds(allowed, None) and holds(allowed, 1)
    assert not holds(allowed, 0) and not holds(allowed, True)
    assert not holds(replace(allowed, optional=False), None)


@pytest.mark.parametrize(
    ("allowed", "value", "message"),
    [
        (Range(0, 1), 1.5, "x is 1.5. Give a value of at least 0 and at most 1"),
        (Range(0, 1, above=True), 0.0, "x is 0.0. Give a value above 0 and at most 1"),
        (Range(0, 2, below=True), 2, "x is 2. Give a value of at least 0 and below 2"),
        (Range(0.5), 0, "x is 0. Give a value of at least 0.5"),
        (Range(0, 1e6), -1, "x is -1. Give a value of at least 0"),
        (Range(0, 1, hint="Give a share"), 2, "x is 2. Give a share"),
        (AT_LEAST_ONE, 0, "x is 0. Give at least 1"),
        (ZERO_OR_MORE, -1, "x is -1. Give 0 or more"),
        (SHARE, 1.01, "x is 1.01. Give a share from 0 to 1"),
        (SHARE, np.float64(1.5), "x is 1.5. Give a share from 0 to 1"),
        (SHARE, "a", "x is 'a'. Give a number"),
    ],
)
def test_messages_name_the_option_the_value_and_the_hint(
    allowed: Range, value: object, message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        allowed.check("x", value)
    assert str(caught.value) == message


@dataclass(frozen=True, slots=True)
class Record:
    length: int = 1
    share: float | None = None


def test_the_first_wrong_field_of_a_record_is_named() -> None:
    ranges = {"length": AT_LEAST_ONE, "share": replace(SHARE, optional=True)}
    check_ranges(Record(), ranges)
    check_ranges(Record(share=0.5), ranges)
    with pytest.raises(OptionError, match=r"^length is 0\. Give at least 1$"):
        check_ranges(Record(length=0, share=2.0), ranges)
    with pytest.raises(OptionError, match=r"^share is 2\.0\. Give a share from 0 to 1$"):
        check_ranges(Record(share=2.0), ranges)
