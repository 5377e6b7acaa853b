"""Lexical units and the samples made of them (Lexical Unit Decoding, arXiv 2405.15208)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.training.lud.units import (
    NONE,
    PAD,
    beside,
    in_place,
    lexical_units,
    passes,
    plain,
)

pytestmark = pytest.mark.method("lud")

IDS = np.array([10, 11, 12, 13, 14, 15, 16, 17, 18])
"""Three tokens of prompt, six of answer: rows 2 to 7 predict the answer."""
FIRST = 2
CHANCES = np.array([0.99, 0.99, 0.2, 0.95, 0.97, 0.99, 0.96, 0.1])
"""Rows 3 to 6 predict 14 15 16 17 with certainty; rows 0 and 1 belong to the prompt."""


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9, 0.95, 1.0]), min_size=1), st.integers(0, 5))
def test_lexical_units_are_maximal(chances: list[float], first: int) -> None:
    """Every token of a unit has a probability above alpha, and its neighbours have not."""
    found = lexical_units(np.array(chances), 0.9, first)
    inside = {row for start, stop in found for row in range(start, stop)}
    assert inside == {row for row, p in enumerate(chances) if p > 0.9 and row >= first}
    for start, stop in found:
        assert start < stop
        assert start - 1 not in inside and stop not in inside


def test_labels_stay_and_inputs_after_the_first_of_a_unit_are_pads() -> None:
    units = lexical_units(CHANCES, 0.9, FIRST)
    assert units == [(3, 7)]
    sample = in_place(IDS, FIRST, passes(units, 8))
    assert sample.ids.tolist() == [10, 11, 12, 13, PAD, PAD, PAD, 17]
    assert sample.labels.tolist() == [NONE, NONE, 13, 14, 15, 16, 17, 18]
    assert sample.positions.tolist() == list(range(8))
    assert (sample.seen == np.tri(8, dtype=bool)).all()


def test_a_pass_has_at_most_k_tokens() -> None:
    assert passes([(3, 7)], 3) == [(3, 6)]  # the last row alone needs no pad
    assert passes([(3, 7)], 2) == [(3, 5), (5, 7)]
    assert passes([(0, 1), (4, 9)], 4) == [(4, 8)]
    sample = in_place(IDS, FIRST, passes([(3, 7)], 2))
    assert sample.ids.tolist() == [10, 11, 12, 13, PAD, 15, PAD, 17]


def test_the_loss_leaves_out_the_prompt_and_nothing_else() -> None:
    for sample in (plain(IDS, FIRST), in_place(IDS, FIRST, [(3, 7)])):
        assert (sample.labels != NONE).tolist() == [row >= FIRST for row in range(8)]
        assert sample.labels[FIRST:].tolist() == IDS[FIRST + 1 :].tolist()
    whole = beside(IDS, FIRST, [(3, 6)])
    assert (whole.labels != NONE).sum() == 6 + 2


def test_beside_the_text_pads_read_what_they_read_in_decoding() -> None:
    sample = beside(IDS, FIRST, [(2, 4), (3, 6)])
    assert sample.ids.tolist() == [*IDS[:8].tolist(), PAD, PAD, PAD]
    assert sample.positions[8:].tolist() == [3, 4, 5]
    assert sample.labels[8:].tolist() == [14, 15, 16]  # each predicts the token after its place
    assert not sample.seen[:8, 8:].any()  # no token reads a pad
    reads = [np.flatnonzero(row).tolist() for row in sample.seen[8:]]
    assert reads == [[0, 1, 2, 8], [0, 1, 2, 3, 9], [0, 1, 2, 3, 9, 10]]


def test_edges() -> None:
    assert lexical_units(np.zeros(0), 0.9, 0) == []
    assert lexical_units(np.ones(3), 0.9, 5) == []
    assert in_place(IDS[:2], 0, []).ids.tolist() == [10]
    assert len(beside(IDS, FIRST, []).ids) == 8
