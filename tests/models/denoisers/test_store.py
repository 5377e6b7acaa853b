"""Rows that a denoiser keeps between forwards: which caches are exact, and what is read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.denoisers.loading import load_denoiser
from outrider.models.denoisers.runner import MaskedDenoiser
from outrider.models.denoisers.store import DenoiserStore
from outrider.protocols import Reading
from tests.models.denoisers.reference import MASK, OWN, Plain, text, written

LENGTH = 12


@pytest.fixture(params=[False, True], ids=["plain", "shifted"])
def one_layer(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[MaskedDenoiser, Plain]:
    folder = written(tmp_path, {**OWN, "num_hidden_layers": 1, "shifted_logits": request.param})
    return load_denoiser(folder, dtype="float64"), Plain(folder)


def filled(ids: IntArray, positions: IntArray, token: int = 7) -> IntArray:
    """The text with a token at these positions."""
    out = ids.copy()
    out[positions] = token
    return out


def masked(prompt: int) -> IntArray:
    """A text whose positions behind the prompt are masks."""
    ids = text(LENGTH, masked=0.0)
    ids[prompt:] = MASK
    return ids


def error(got: Tensor, plain: Plain, ids: IntArray, want: IntArray) -> float:
    """The largest difference of finite logits."""
    wanted = plain.logits(ids)[want]
    finite = wanted.isfinite()
    assert torch.equal(finite, got.isfinite())
    return float((got - wanted)[finite].abs().max())


def test_prefix_cache_of_one_layer_is_exact(one_layer: tuple[MaskedDenoiser, Plain]) -> None:
    model, plain = one_layer
    store, ids, start = model.new_store(LENGTH), masked(4), 4
    model.read([Reading(ids=ids, want=np.arange(0), store=store, keep=np.arange(start))])
    assert store.positions.tolist() == [0, 1, 2, 3]
    ids = filled(ids, np.array([5, 9]))
    rows = np.arange(start, LENGTH)
    (got,) = model.read([Reading(ids=ids, want=rows, rows=rows, store=store)])
    assert error(got, plain, ids, rows) < 1e-12


def test_dual_cache_of_one_layer_is_exact(one_layer: tuple[MaskedDenoiser, Plain]) -> None:
    model, plain = one_layer
    store, ids, block = model.new_store(LENGTH), masked(4), np.arange(4, 8)
    every = np.arange(LENGTH)
    model.read([Reading(ids=ids, want=every, store=store, keep=every)])
    for position in block:
        ids = filled(ids, np.array([position]), 5 + int(position))
        (got,) = model.read([Reading(ids=ids, want=block, rows=block, store=store, keep=block)])
        assert error(got, plain, ids, block) < 1e-12
    after = np.arange(8, LENGTH)  # the rows of the block were overwritten by those of its tokens
    (got,) = model.read([Reading(ids=ids, want=after, rows=after, store=store)])
    assert error(got, plain, ids, after) < 1e-12


@pytest.mark.parametrize("delay", [1, 0])
def test_delayed_cache_of_one_layer_is_exact_and_an_early_one_is_wrong(
    one_layer: tuple[MaskedDenoiser, Plain], delay: int
) -> None:
    """Keys of a position are those of its token only one forward after the token is chosen."""
    model, plain = one_layer
    store, ids = model.new_store(LENGTH), masked(4)
    decoded, worst = [set(range(4))], 0.0
    for step in range(4):
        rows = np.setdiff1d(np.arange(LENGTH), store.positions)
        want = rows[ids[rows] == MASK]
        chosen = want[:2] if step % 2 else want[-2:]
        now = decoded[-1] if delay else decoded[-1] | set(chosen.tolist())
        keep = np.intersect1d(rows, np.array(sorted(now)))
        (got,) = model.read([Reading(ids=ids, want=want, rows=rows, store=store, keep=keep)])
        worst = max(worst, error(got, plain, ids, want))
        ids = filled(ids, chosen, 5 + step)
        decoded.append(decoded[-1] | set(chosen.tolist()))
    assert worst < 1e-12 if delay else worst > 1e-2


@pytest.mark.parametrize("shifted", [False, True])
def test_refreshed_every_forward_equals_no_cache(tmp_path: Path, shifted: bool) -> None:
    folder = written(tmp_path, {**OWN, "shifted_logits": shifted})
    model, plain, every = load_denoiser(folder, dtype="float64"), Plain(folder), np.arange(LENGTH)
    store = model.new_store(LENGTH)
    for seed in range(3):
        ids = text(LENGTH, seed)
        (got,) = model.read([Reading(ids=ids, want=every, store=store, keep=every)])
        assert error(got, plain, ids, every) < 1e-9


def test_two_layers_are_approximate(tmp_path: Path) -> None:
    """A row of a deeper layer depends on all positions, so a kept one is that of an older text."""
    folder = written(tmp_path, OWN)
    model, plain, every = load_denoiser(folder, dtype="float64"), Plain(folder), np.arange(LENGTH)
    store, ids = model.new_store(LENGTH), masked(4)
    model.read([Reading(ids=ids, want=every, store=store, keep=every)])
    ids, block = filled(ids, np.array([4])), np.arange(4, 8)
    (got,) = model.read([Reading(ids=ids, want=block, rows=block, store=store)])
    assert error(got, plain, ids, block) > 1e-6


def test_a_position_that_is_neither_computed_nor_stored_is_not_seen(tmp_path: Path) -> None:
    model = load_denoiser(written(tmp_path, OWN), dtype="float64")
    ids, rows = masked(4), np.arange(6)
    (got,) = model.read([Reading(ids=ids, want=rows, rows=rows)])
    (short,) = model.read([Reading(ids=ids[:6], want=rows)])
    torch.testing.assert_close(got, short, rtol=1e-12, atol=1e-12)


def test_bytes_are_those_of_stored_rows(tmp_path: Path) -> None:
    model = load_denoiser(written(tmp_path, OWN), dtype="float32")
    store, ids = model.new_store(LENGTH), masked(4)
    assert store.nbytes == 0
    keep = np.array([1, 2, 7])
    model.read([Reading(ids=ids, want=keep, store=store, keep=keep)])
    layers, heads, dim = 2, 2, 4
    assert store.nbytes == 3 * layers * 2 * heads * dim * 4 == 3 * model.info.bytes_per_token
    store.drop(np.array([2]))
    assert store.positions.tolist() == [1, 7]
    store.drop()
    assert store.nbytes == 0
    with pytest.raises(ValueError, match="outside a text of 12"):
        store.drop(np.array([12]))


class StoreMachine(RuleBasedStateMachine):
    """Any order of forwards and drops, against a record of tokens by position.

    In a model of one layer, keys and values of a row follow from its token alone. So a stored row
    must be that of the token at the time of the last forward that kept it.
    """

    model: MaskedDenoiser
    plain: Plain
    shifted: bool

    @initialize(seed=st.integers(0, 5))
    def start(self, seed: int) -> None:
        self.ids = text(LENGTH, seed)
        self.store: DenoiserStore = self.model.new_store(LENGTH)
        self.tokens: dict[int, int] = {}

    @rule(position=st.integers(0, LENGTH - 1), token=st.integers(4, 28))
    def change(self, position: int, token: int) -> None:
        self.ids[position] = token

    @rule(data=st.data())
    def forward(self, data: st.DataObject) -> None:
        positions = st.integers(0, LENGTH - 1)
        rows = sorted(data.draw(st.sets(positions, min_size=1), "rows"))
        want = sorted(data.draw(st.sets(st.sampled_from(rows), min_size=1), "want"))
        keep = sorted(data.draw(st.sets(st.sampled_from(rows)), "keep"))
        reading = Reading(
            ids=self.ids,
            want=np.array(want),
            rows=np.array(rows),
            store=self.store,
            keep=np.array(keep, dtype=np.int64),
        )
        (got,) = self.model.read([reading])
        sources = [max(p - 1, 0) for p in want] if self.shifted else want
        computed = sorted({*rows, *sources})
        seen = self.tokens | {p: int(self.ids[p]) for p in computed}
        expected = self.plain.predictions(seen, sources)
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
        self.tokens |= {p: int(self.ids[p]) for p in keep}

    @rule(positions=st.none() | st.sets(st.integers(0, LENGTH - 1)))
    def drop(self, positions: set[int] | None) -> None:
        self.store.drop(None if positions is None else np.array(sorted(positions), dtype=np.int64))
        gone = set(self.tokens) if positions is None else positions
        self.tokens = {p: t for p, t in self.tokens.items() if p not in gone}

    @invariant()
    def positions_agree(self) -> None:
        if hasattr(self, "store"):
            assert self.store.positions.tolist() == sorted(self.tokens)
            assert self.store.nbytes == len(self.tokens) * self.model.info.bytes_per_token


@pytest.mark.parametrize("shifted", [False, True])
def test_any_order_of_forwards(tmp_path: Path, shifted: bool) -> None:
    folder = written(tmp_path, {**OWN, "num_hidden_layers": 1, "shifted_logits": shifted})

    class Machine(StoreMachine):
        pass

    Machine.model, Machine.plain = load_denoiser(folder, dtype="float64"), Plain(folder)
    Machine.shifted = shifted
    case = Machine.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
    case("runTest").runTest()
