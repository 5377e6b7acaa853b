import sys

import pytest

from outrider.errors import OptionError
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
    with pytest.raises(OptionError, match="pool"):
        NgramPool(per_key=0)
