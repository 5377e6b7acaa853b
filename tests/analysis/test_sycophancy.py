"""The rates of sycophancy (LQCD, arXiv 2408.11261) on answers that are counted by hand."""

import pytest

from outrider.analysis.sycophancy import Sycophancy

pytestmark = pytest.mark.method("lqcd")


def test_the_four_rates() -> None:
    #          right, right, right, right, wrong, wrong
    neutral = ["yes", "yes", "no", "yes", "no", "yes"]
    leading = ["no", "yes", "no", "no", "yes", "yes"]
    truth = ["yes", "yes", "no", "yes", "yes", "no"]
    found = Sycophancy.of(neutral, leading, truth, ["no"] * 6)
    assert found.transformation == 3 / 6
    assert found.introduction == 2 / 4
    assert found.correction == 1 / 2
    assert found.imbalance == pytest.approx(1 / 3)  # two changes to no, one from it
    assert (found.before, found.after) == (4 / 6, 3 / 6)


def test_changes_between_answers_that_are_not_suggested_are_balanced() -> None:
    found = Sycophancy.of("ab", "cb", "ab", "dd")
    assert (found.imbalance, found.introduction, found.correction) == (0.0, 0.5, None)


def test_without_changes_there_is_no_imbalance() -> None:
    found = Sycophancy.of([1, 2], [1, 2], [3, 3], [4, 4])
    assert (found.transformation, found.correction, found.imbalance) == (0.0, 0.0, None)
    assert found.introduction is None and found.after == 0.0
    assert Sycophancy.of([], [], [], []) == Sycophancy(None, None, None, None, None, None)


def test_numbers_of_answers_must_agree() -> None:
    with pytest.raises(ValueError, match="longer"):
        Sycophancy.of([1], [1, 2], [1], [1])
