import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from outrider import kernels
from outrider.core.errors import OptionError
from outrider.memories.distributions import Distributions
from outrider.memories.rows import best_probabilities


@pytest.fixture(params=["kernel", "numpy"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with and without compiled kernels."""
    if request.param == "numpy":
        monkeypatch.setattr(kernels, "available", lambda: False)
    elif not kernels.available():
        pytest.skip(kernels.reason_missing())


ORDERS = (4, 3, 2)


def learn(memory: Distributions, context: tuple[int, ...], logits: torch.Tensor) -> None:
    best = best_probabilities(logits, memory.entries)
    memory.learn([context] * len(logits), best, logits.shape[1])


def mean_of(memory: Distributions, slot: int) -> dict[int, float]:
    [ids], [means] = memory.ids([slot]).tolist(), memory.means([slot]).tolist()
    return {i: p for i, p in zip(ids, means, strict=True) if i >= 0}


@pytest.mark.parametrize("batched", [True, False])
def test_running_mean_equals_the_batch_mean_on_a_replay(batched: bool) -> None:
    """With as many entries as tokens nothing is cut, and the two are the same."""
    memory, logits = Distributions(orders=ORDERS), torch.randn(30, 9) * 2
    for rows in [logits] if batched else logits.split(1):
        learn(memory, (1, 2, 3, 4), rows)
    slot = memory.find((1, 2, 3, 4))
    expected = logits.double().softmax(-1).mean(0)
    assert memory.count(slot) == 30
    found = mean_of(memory, slot)
    assert set(found) == set(range(9))
    for token, mean in found.items():
        assert mean == pytest.approx(float(expected[token]), rel=1e-4)


def test_row_sums_and_entries_are_bounded() -> None:
    memory = Distributions(orders=ORDERS)
    rng = np.random.default_rng(0)
    for _ in range(60):
        context = tuple(rng.integers(0, 3, 4).tolist())
        learn(memory, context, torch.randn(2, 500) * 4)
    slots = list(range(len(memory)))
    means = memory.means(slots)
    assert means.shape[1] == 10
    assert (means.sum(1) <= 1 + 1e-5).all() and (means >= 0).all()
    assert (np.diff(means, axis=1) <= 0).all()  # likeliest first
    for ids in memory.ids(slots).tolist():
        known = [i for i in ids if i >= 0]
        assert len(set(known)) == len(known)


def test_the_longest_key_wins() -> None:
    memory = Distributions(orders=ORDERS)
    learn(memory, (1, 2, 3, 4), torch.randn(1, 9))
    learn(memory, (9, 9, 3, 4), torch.randn(1, 9))
    longest = memory.find((0, 1, 2, 3, 4))
    assert memory.count(longest) == 1
    assert memory.count(memory.find((7, 7, 3, 4))) == 2
    assert memory.find((3, 4)) == memory.find((7, 7, 3, 4))
    assert memory.find((4,)) == -1 and memory.find(()) == -1
    assert len(memory) == 5


def test_several_keys_in_one_batch() -> None:
    """One call and several teach the same, also where keys repeat."""
    logits = torch.randn(40, 30)
    contexts = [tuple(c) for c in np.random.default_rng(1).integers(0, 2, (40, 4)).tolist()]
    once, often = Distributions(orders=ORDERS), Distributions(orders=ORDERS)
    once.learn(contexts, best_probabilities(logits, 10), 30)
    for i, context in enumerate(contexts):
        learn(often, context, logits[i : i + 1])
    assert len(once) == len(often)
    for context in contexts:
        for n in (4, 3, 2):
            a, b = once.find(context[-n:]), often.find(context[-n:])
            assert once.count(a) == often.count(b)
            assert mean_of(once, a) == pytest.approx(mean_of(often, b), rel=1e-5)


def test_the_store_is_bounded_and_the_oldest_goes_first() -> None:
    memory = Distributions(orders=ORDERS, max_keys=90)
    for i in range(300):
        learn(memory, (i, i, i, i), torch.randn(1, 20))
    assert len(memory) == 90
    assert memory.find((0, 0)) == -1 and memory.find((299, 299)) >= 0
    tables = memory.ids([0]).itemsize + memory.means([0]).itemsize
    assert memory.nbytes == 90 * (10 * tables + 4) + 260 * 90
    slots = [memory.find((299,) * n) for n in (4, 3, 2)]
    assert len(set(slots)) == 3 and max(slots) < 90
    learn(memory, (5, 5, 5, 5), torch.randn(100, 20))  # more rows than keys
    assert memory.count(memory.find((5, 5))) == 100


def test_rows_that_are_not_finite_are_not_learnt() -> None:
    memory, logits = Distributions(orders=ORDERS), torch.randn(2, 30)
    logits[0, 5] = torch.nan
    learn(memory, (1, 2, 3, 4), logits)
    assert memory.count(memory.find((1, 2, 3, 4))) == 1
    assert mean_of(memory, 0).keys() == set(logits[1].topk(10).indices.tolist())


def test_the_kernel_blends_as_numpy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also where keys repeat and rows tie."""
    if not kernels.available():
        pytest.skip(kernels.reason_missing())
    rng = np.random.default_rng(3)
    pair = Distributions(entries=6), Distributions(entries=6)
    for _ in range(80):
        contexts = [tuple(c) for c in rng.integers(0, 3, (12, 4)).tolist()]
        best = best_probabilities(torch.from_numpy(rng.integers(0, 4, (12, 15))).float(), 6)
        pair[0].learn(contexts, best, 15)
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "available", lambda: False)
            pair[1].learn(contexts, best, 15)
    slots = list(range(len(pair[0])))
    assert len(slots) == len(pair[1]) > 50
    assert np.array_equal(pair[0].ids(slots), pair[1].ids(slots))
    assert np.array_equal(pair[0].means(slots), pair[1].means(slots))


def test_wide_vocabularies() -> None:
    memory = Distributions(orders=ORDERS)
    learn(memory, (255_999, 1, 2), torch.randn(1, 256_000))
    assert memory.vocab_size == 256_000
    assert memory.find((255_999, 1, 2)) >= 0


def test_settings_out_of_range() -> None:
    with pytest.raises(OptionError, match="longest first"):
        Distributions(orders=(2, 3))
    with pytest.raises(OptionError, match="entries"):
        Distributions(entries=0)


class GrowingStore(RuleBasedStateMachine):
    """Rows after contexts of any length, in a memory of seven keys; nothing is cut from a row."""

    ORDERS, KEYS, VOCAB = (3, 1), 7, 4

    def __init__(self) -> None:
        super().__init__()
        self.memory = Distributions(orders=self.ORDERS, entries=self.VOCAB, max_keys=self.KEYS)
        self.twin: dict[tuple[int, ...], list[np.ndarray]] = {}

    @rule(
        contexts=st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=6),
        seed=st.integers(0, 99),
        broken=st.booleans(),
    )
    def learn(self, contexts: list[list[int]], seed: int, broken: bool) -> None:
        rows = torch.randn(len(contexts), self.VOCAB, generator=torch.Generator().manual_seed(seed))
        if broken:
            rows[0, 1] = torch.nan
        best = best_probabilities(rows, self.VOCAB)
        self.memory.learn([tuple(c) for c in contexts], best, self.VOCAB)
        for context, row in zip(contexts, rows, strict=True):
            for n in self.ORDERS:
                if n <= len(context) and not row.isnan().any():
                    key = tuple(context[len(context) - n :])
                    seen = self.twin.pop(key, [])
                    self.twin[key] = [*seen, row.double().softmax(-1).numpy()]
                    if len(self.twin) > self.KEYS:
                        del self.twin[next(iter(self.twin))]

    @invariant()
    def the_keys_seen_last_are_held_with_their_means(self) -> None:
        assert list(self.memory._slots) == list(self.twin)
        assert len(self.memory) <= self.KEYS
        assert self.memory.nbytes <= self.KEYS * (self.VOCAB * 8 + 4 + 260)
        for key, rows in self.twin.items():
            slot = self.memory._slots[key]
            assert self.memory.count(slot) == len(rows)
            known = mean_of(self.memory, slot)
            means = [known[token] for token in range(self.VOCAB)]
            assert means == pytest.approx(np.mean(rows, axis=0), abs=1e-5)


def test_growth_and_eviction() -> None:
    few = settings(max_examples=25, stateful_step_count=15, deadline=None)
    run_state_machine_as_test(GrowingStore, settings=few)
