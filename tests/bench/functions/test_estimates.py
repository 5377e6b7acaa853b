"""The problems and the estimate of the benchmarks of code."""

from itertools import combinations
from typing import cast

import pytest
from benchmarks.search.functions.agreeing import chance_of_best
from benchmarks.search.functions.problems import Written, indented, left_out, measured

from outrider.search.steps.trials import Place, Trial


def trials() -> list[Trial]:
    """Six trials; those that begin with token 1 have perplexities of all ranks."""
    given = [(1, -0.5), (2, -0.2), (1, -1.5), (3, -0.9), (1, -0.1), (2, -2.0)]
    place = cast(Place, None)  # the estimate does not look at places
    return [Trial(place, tokens=(first, 7), warped=warped) for first, warped in given]


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_the_chance_of_the_best_trial_counts_all_ways_to_draw(count: int) -> None:
    drawn = list(combinations(trials(), count))
    for token in (1, 2, 3, 4):
        right = [min(own, key=lambda one: one.perplexity).tokens[0] == token for own in drawn]
        assert chance_of_best(trials(), count, token) == pytest.approx(sum(right) / len(drawn))


def test_bodies_get_four_spaces_a_step() -> None:
    assert indented("  if a:\n    return 1\n\n  return 2 \n\n") == (
        "    if a:\n        return 1\n    return 2\n"
    )
    assert indented("    return 1\n") == "    return 1\n"


def test_problems_that_are_left_out_are_not_measured() -> None:
    every = [Written(str(i), "", "", "") for i in range(13)]
    names = [one.name for one in left_out(every)]
    assert names == ["0", "6", "12"]
    assert sorted([*measured(every), *left_out(every)], key=every.index) == every
    assert len(measured(every)) == 10


@pytest.mark.parametrize("form", ["plain", "solved", "chat"])
def test_a_prompt_ends_with_the_header(form: str) -> None:
    header = 'def f(x):\n    """One."""'
    assert Written("a", header, "", "").prompt(form).endswith(header)
