import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from outrider.core.errors import OptionError
from outrider.memories.pool import NgramPool


def test_at_most_g_ngrams_for_each_key() -> None:
    pool = NgramPool(per_key=3)
    for i in range(10):
        pool.add(1, (i, i))
    assert pool.after(1) == [(9, 9), (8, 8), (7, 7)]
    pool.add(1, (7, 7))  # used again: the newest
    pool.add(1, (5, 5))
    assert pool.after(1) == [(5, 5), (7, 7), (9, 9)]
    assert pool.after(2) == []


def test_keys_are_bounded_and_the_oldest_goes_first() -> None:
    pool = NgramPool(max_keys=4)
    pool.add_text(list(range(20)), 3)
    assert len(pool) == 4
    assert pool.after(17) == [(18, 19)] and pool.after(0) == []


class GrowingStore(RuleBasedStateMachine):
    """N-grams of many keys, in a pool of three keys with two n-grams each."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = NgramPool(per_key=2, max_keys=3)
        self.twin: dict[int, list[tuple[int, ...]]] = {}

    @rule(token=st.integers(0, 5), ngram=st.lists(st.integers(0, 2), min_size=1, max_size=3))
    def add(self, token: int, ngram: list[int]) -> None:
        self.pool.add(token, tuple(ngram))
        known = [n for n in self.twin.pop(token, []) if n != tuple(ngram)]
        self.twin[token] = [*known, tuple(ngram)][-2:]
        if len(self.twin) > 3:
            del self.twin[next(iter(self.twin))]

    @rule(text=st.lists(st.integers(0, 5), max_size=8), size=st.integers(2, 4))
    def read(self, text: list[int], size: int) -> None:
        self.pool.add_text(text, size)
        twin = NgramPool(per_key=2, max_keys=3)
        for key, ngrams in self.twin.items():
            for ngram in ngrams:
                twin.add(key, ngram)
        for end in range(size, len(text) + 1):
            first, *others = text[end - size : end]
            twin.add(first, tuple(others))
        self.twin = {key: twin.after(key)[::-1] for key in twin._table}

    @invariant()
    def the_newest_are_held(self) -> None:
        assert len(self.pool) == len(self.twin) <= 3
        for token in range(6):
            assert self.pool.after(token) == self.twin.get(token, [])[::-1]
        ngrams = [n for known in self.twin.values() for n in known]
        expected = 330 * len(self.twin) + 130 * len(ngrams) + 36 * sum(map(len, ngrams))
        assert self.pool.nbytes == expected


GrowingStore.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestGrowingStore = GrowingStore.TestCase


def test_nbytes_is_near_what_python_holds() -> None:
    pool = NgramPool()
    pool.add_text([i * i % 1009 + 300 for i in range(20_000)], 5)
    held = sys.getsizeof(pool._table)
    for key, known in pool._table.items():
        held += sys.getsizeof(key) + sys.getsizeof(known)
        held += sum(sys.getsizeof(n) + sum(sys.getsizeof(t) for t in n) for n in known)
    assert 0.6 < pool.nbytes / held < 1.6
    before = pool.nbytes
    pool.add_text([i * i % 1009 + 300 for i in range(20_000)], 5)
    assert pool.nbytes == before


def test_settings_out_of_range() -> None:
    with pytest.raises(OptionError, match="per_key"):
        NgramPool(per_key=0)
