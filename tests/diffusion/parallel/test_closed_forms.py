"""The closed forms, by enumeration and with a denoiser of the exact conditionals."""

from math import sqrt

import pytest

from outrider.bench.parallel.ideal import ideal_rows, success
from outrider.diffusion.parallel.closed_forms import (
    FORMS,
    closed_form,
    one_shot_success,
    replace_correlation,
    replace_success,
    shuffle_correlation,
    shuffle_success,
    total_correlation,
)

DRAWS = 150


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_formulas_equal_enumeration(name: str, n: int) -> None:
    form = closed_form(name, n)
    assert total_correlation(form.joint) == pytest.approx(form.correlation, abs=1e-12)
    assert one_shot_success(form.joint) == pytest.approx(form.success, abs=1e-12)


def test_published_values() -> None:
    """The values of the specification for four names."""
    assert shuffle_correlation(4) == pytest.approx(2.367, abs=1e-3)
    assert shuffle_success(4) == pytest.approx(0.094, abs=1e-3)
    assert replace_correlation(4) == pytest.approx(0.863, abs=1e-3)
    assert replace_success(4) == pytest.approx(0.422, abs=1e-3)


@pytest.mark.parametrize("name", FORMS)
def test_exact_conditionals_reproduce_the_closed_forms(name: str) -> None:
    """All positions in one round succeed as often as the form says, within four standard errors;
    one token a round always succeeds."""
    form = closed_form(name, 4)
    error = sqrt(form.success * (1 - form.success) / DRAWS)
    assert abs(success(form, 1, DRAWS) - form.success) <= 4 * error
    assert success(form, None, 40) == 1.0


def test_rows_of_the_table() -> None:
    rows = ideal_rows((2,), draws=8)
    assert [row["form"] for row in rows] == list(FORMS)
    assert all(row["one_token"] == 1.0 for row in rows)
