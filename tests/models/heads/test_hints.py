"""Hints: what followed the last tokens of a text, in dictionaries and compiled."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.types import as_ids
from outrider.models.heads.hints import (
    AFTER_ONE,
    AFTER_TWO,
    NO_HINT,
    OF_OTHERS,
    Hints,
    count_successors,
)
from outrider.models.heads.native_hints import NativeHints
from tests.models.heads.setups import needs_kernels

pytestmark = pytest.mark.method("hinted")

VOCAB = 9
SOURCES = [Hints, pytest.param(NativeHints, marks=needs_kernels())]
TABLE = as_ids([3, -1, 5, 5, 8, 0, -1, 2, 1]).astype(np.int32)
texts = st.lists(st.integers(0, VOCAB - 1), max_size=40)


def expected(text: list[int], before: int, token: int) -> tuple[int, int]:
    """The definition: the most recent successor of two tokens, else of one, else of the table."""
    for place in range(len(text) - 1, 1, -1):
        if before >= 0 and text[place - 2 : place] == [before, token]:
            return text[place], AFTER_TWO
    for place in range(len(text) - 1, 0, -1):
        if text[place - 1] == token:
            return text[place], AFTER_ONE
    other = int(TABLE[token])
    return (other, OF_OTHERS) if other >= 0 else (0, NO_HINT)


@pytest.mark.parametrize("source", SOURCES)
@given(
    text=texts,
    cuts=st.lists(st.integers(0, 40), max_size=4),
    pair=st.tuples(*[st.integers(0, VOCAB - 1)] * 2),
)
def test_hints_are_those_of_the_definition(
    source: Any, text: list[int], cuts: list[int], pair: tuple[int, int]
) -> None:
    hints, found = source(TABLE), []
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    for first, last in pairwise(places):
        rows = hints.extend(text, first, last)
        found += [(int(hint), int(level)) for hint, level in zip(*rows, strict=True)]
    for place, hint in enumerate(found):
        before = text[place - 1] if place else -1
        assert hint == expected(text[: place + 1], before, text[place])
    assert hints.find(*pair) == expected(text, *pair)
    assert hints.find(-1, pair[1]) == expected(text, -1, pair[1])


@needs_kernels()
@pytest.mark.parametrize("parts", [1, 7, 5000])
def test_a_table_that_grows_forgets_nothing(parts: int) -> None:
    """A text of 5,000 tokens of 3,000, in parts: the table is made anew several times."""
    text = np.random.default_rng(0).integers(0, 3000, 5000)
    table = np.full(3000, -1, dtype=np.int32)
    ours, theirs = NativeHints(table), Hints(table)
    step = -(-len(text) // parts)
    for first in range(0, len(text), step):
        part = text.tolist(), first, first + step
        pairs = zip(ours.extend(*part), theirs.extend(*part), strict=True)
        for mine, other in pairs:
            assert np.array_equal(mine, other)
    for before, token in zip(text[:-1:7].tolist(), text[1::7].tolist(), strict=False):
        assert ours.find(before, token) == theirs.find(before, token)
        assert ours.find(token, before) == theirs.find(token, before)


@needs_kernels()
@given(text=texts)
def test_many_sources_do_not_share_what_they_know(text: list[int]) -> None:
    first, second = NativeHints(TABLE), NativeHints(TABLE)
    first.extend(text, 0, len(text))
    for token in range(VOCAB):
        assert second.find(-1, token) == expected([], -1, token)


@pytest.mark.parametrize("source", SOURCES)
def test_the_order_of_levels(source: Any) -> None:
    hints = source(TABLE)
    assert hints.find(7, 0) == (3, OF_OTHERS) and hints.find(7, 1) == (0, NO_HINT)
    text = [7, 0, 4, 0, 6]
    hints.extend(text, 0, 3)
    assert hints.find(7, 0) == (4, AFTER_TWO) and hints.find(6, 0) == (4, AFTER_ONE)
    hints.extend(text, 3, 5)
    assert hints.find(7, 0) == (4, AFTER_TWO) and hints.find(6, 0) == (6, AFTER_ONE)


# -- the table of other texts ----------------------------------------------------------------------


def test_the_most_frequent_successor_is_counted() -> None:
    seen = [as_ids([1, 2, 1, 3, 1, 2]), as_ids([2, 4]), as_ids([5]), as_ids([4, 0])]
    table = count_successors(seen, 6)
    assert table[1] == 2 and table[3] == 1 and table[4] == 0
    assert table[0] == -1 and table[5] == -1
    assert table[2] in (1, 4)  # each was seen once
    assert count_successors(seen, 6, least=2).tolist() == [-1, 2, -1, -1, -1, -1]


def test_texts_do_not_run_into_each_other() -> None:
    assert count_successors([as_ids([1, 2]), as_ids([0, 1])], 3).tolist() == [1, 2, -1]


@given(seen=st.lists(texts, min_size=1, max_size=5))
def test_counts_are_those_of_the_definition(seen: list[list[int]]) -> None:
    table = count_successors([as_ids(text) for text in seen], VOCAB)
    for token in range(VOCAB):
        after = [b for text in seen for a, b in pairwise(text) if a == token]
        counts = [after.count(other) for other in range(VOCAB)]
        if after:
            assert counts[table[token]] == max(counts)
        else:
            assert table[token] == -1
