import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from outrider.core.errors import OptionError, StoreError, VocabularyError
from outrider.memories.trigrams import Trigrams

TEXTS = st.lists(st.lists(st.integers(0, 4), max_size=30), max_size=5)


@given(texts=TEXTS)
def test_build_equals_counting_by_hand(texts: list[list[int]]) -> None:
    counts: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for text in texts:
        for a, b, c in zip(text, text[1:], text[2:], strict=False):
            counts[a, b][c] += 1
    memory = Trigrams()
    memory.build(texts)
    assert {key for key, _ in memory.items()} == set(counts)
    for key, weights in memory.items():
        total = counts[key].total()
        assert dict(weights) == pytest.approx({c: n / total for c, n in counts[key].items()})


def test_only_the_best_successors_are_kept() -> None:
    memory = Trigrams(successors=2)
    memory.build([[1, 2, 3] * 3 + [1, 2, 4, 1, 2, 4, 1, 2, 5]])
    assert set(memory.after(1, 2)) == {3, 4}
    assert memory.after(1, 2)[3] == pytest.approx(3 / 6)


@given(text=st.lists(st.integers(0, 2), max_size=300))
def test_weights_stay_within_0_and_3(text: list[int]) -> None:
    memory = Trigrams(increment=0.4)
    memory.build([text])
    memory.bump(text)
    memory.bump(text)
    for _, weights in memory.items():
        assert all(0.0 < weight <= 3.0 for weight in weights.values())


def test_a_bump_adds_the_increment() -> None:
    memory = Trigrams()
    memory.bump([7, 8, 9])
    assert memory.after(7, 8) == {9: pytest.approx(0.04)}
    memory.bump([7, 8, 9])
    assert memory.after(7, 8) == {9: pytest.approx(0.08)}
    memory.bump([7, 8])
    assert memory.after(8, 9) == {}


class GrowingStore(RuleBasedStateMachine):
    """Texts are read and corpora counted, far more than there is room for."""

    KEYS, SUCCESSORS = 6, 2

    def __init__(self) -> None:
        super().__init__()
        self.memory = Trigrams(successors=self.SUCCESSORS, max_keys=self.KEYS, increment=0.5)
        self.twin: dict[tuple[int, int], dict[int, float]] = {}

    def room(self, known: dict, most: int) -> None:
        while len(known) > most:
            del known[next(iter(known))]

    @rule(text=st.lists(st.integers(0, 3), max_size=12))
    def read(self, text: list[int]) -> None:
        self.memory.bump(text)
        for a, b, c in zip(text, text[1:], text[2:], strict=False):
            weights = self.twin.pop((a, b), {})
            if c not in weights and len(weights) == self.SUCCESSORS:
                del weights[min(weights, key=weights.__getitem__)]
            weights[c] = min(weights.get(c, 0.0) + 0.5, 3.0)
            self.twin[a, b] = weights
            self.room(self.twin, self.KEYS)

    @rule(a=st.integers(0, 3), b=st.integers(0, 3), c=st.integers(0, 3))
    def count_a_corpus(self, a: int, b: int, c: int) -> None:
        self.memory.build([[a, b, c]])
        self.twin.pop((a, b), None)
        self.twin[a, b] = {c: 1.0}
        self.room(self.twin, self.KEYS)

    @invariant()
    def it_holds_what_was_touched_last(self) -> None:
        held = [(key, dict(weights)) for key, weights in self.memory.items()]
        assert held == list(self.twin.items())
        assert len(self.memory) <= self.KEYS
        assert self.memory.nbytes == 420 * len(held) + 56 * sum(len(w) for _, w in held)


GrowingStore.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestGrowingStore = GrowingStore.TestCase


def test_the_store_is_bounded() -> None:
    memory = Trigrams(max_keys=50, successors=3)
    memory.bump(list(range(200)))
    assert len(memory) == 50
    assert memory.after(0, 1) == {} and memory.after(197, 198) == {199: pytest.approx(0.04)}
    for c in range(10):
        memory.bump([197, 198, c])
    assert len(memory.after(197, 198)) == 3
    memory.build([list(range(1000, 1200))])
    assert len(memory) == 50


def test_nbytes_is_near_what_python_holds() -> None:
    memory = Trigrams()
    memory.bump([i * i % 5003 + 300 for i in range(20_000)])
    held = sys.getsizeof(memory._table)
    for key, weights in memory._table.items():
        held += sys.getsizeof(key) + sys.getsizeof(weights)
        held += sum(sys.getsizeof(c) + sys.getsizeof(w) for c, w in weights.items())
    assert 0.7 < memory.nbytes / held < 1.5


def test_save_and_load(tmp_path: Path) -> None:
    memory = Trigrams()
    memory.build([[1, 2, 3, 1, 2, 4, 250_000, 1, 2, 3]])
    memory.save(tmp_path / "table", "abc")
    other = Trigrams()
    other.load(tmp_path / "table", "abc")
    for key, weights in memory.items():
        assert other.after(*key) == pytest.approx(dict(weights))
    assert len(other) == len(memory) and other.nbytes == memory.nbytes
    narrow = Trigrams(successors=1)
    narrow.load(tmp_path / "table")
    assert set(narrow.after(1, 2)) == {3}
    with pytest.raises(VocabularyError, match="another tokenizer"):
        Trigrams().load(tmp_path / "table", "xyz")
    with pytest.raises(StoreError, match="no store"):
        Trigrams().load(tmp_path / "nothing")


def test_an_empty_table_can_be_saved(tmp_path: Path) -> None:
    Trigrams().save(tmp_path / "table", "")
    other = Trigrams()
    other.load(tmp_path / "table")
    assert len(other) == 0


def test_settings_out_of_range() -> None:
    with pytest.raises(OptionError, match="increment"):
        Trigrams(increment=0.0)
