"""Rows in the storage of planes, one by one: with kernels and without, whatever policies choose."""

from typing import Any

import numpy as np
import pytest
import torch

from outrider.models.caches.eviction.planes import Planes
from outrider.models.caches.eviction.weights import best, received
from tests.models.caches.eviction.setups import begin, ids, model, policy, runner_cases, write

pytestmark = pytest.mark.usefixtures("unchecked")
each_runner = pytest.mark.parametrize("runner", runner_cases(("decoder", "bfloat16", "int8")))


def filled(runner: str) -> Any:
    """A cache of 25 rows whose planes hold different numbers of them, with hidden states."""
    full = model(runner, "mha")
    one = full.under(policy("duo", full)).keeping((1,))
    own = begin(one, ids(14, 3))
    write(one, own, ids(12, 4))
    assert len(set(own.planes.counts.tolist())) > 1
    return own


def values_of(store: Any, plane: int, count: int) -> torch.Tensor:
    """The first values of a plane, as floats."""
    if hasattr(store, "_begins"):
        rows = slice(int(store._begins[plane]), int(store._begins[plane]) + count)
        found = store.values[rows].float()
        scales = store.value_scales[rows]
        return (
            found * scales.repeat_interleave(32, 1)[:, : found.shape[1]] if len(scales.T) else found
        )
    return store.plane(plane)[1][:count]


@each_runner
def test_storage_has_room_for_its_capacity_in_every_plane(runner: str) -> None:
    own = filled(runner)
    for wanted in (60, 100, 130):
        store = own._make(own.layout, wanted)
        ends = [-(-(wanted + shift) // 64) * 64 - shift for shift in store.planes.shift.tolist()]
        assert store.capacity == min(ends) >= wanted and len(set(ends)) > 1
    with pytest.raises(RuntimeError, match="other rows in each layer and head"):
        store.first(3)


@each_runner
def test_copies_hold_the_rows_of_the_text_and_their_states(runner: str) -> None:
    own = filled(runner)
    held, rows = own.storage, own.length
    copy = own._make(own.layout, 200)
    copy.copy_rows(held, rows)
    assert torch.equal(copy.states[:rows], held.states[:rows])
    for plane in range(len(own.planes.rows)):
        count = len(own.planes.holds(plane, rows))
        assert torch.equal(copy.float_keys(plane, count), held.float_keys(plane, count))
        assert torch.equal(values_of(copy, plane, count), values_of(held, plane, count))


@each_runner
def test_moves_take_keys_values_and_states(runner: str) -> None:
    """Apart, and within one storage, where the places overlap."""
    own = filled(runner)
    held, end = own.storage, own.planes.end
    assert own.length == end + 1  # rows behind the point are made of kept ones
    before = [held.float_keys(plane, 200).clone() for plane in range(len(own.planes.rows))]
    values = [values_of(held, plane, 64).clone() for plane in range(len(own.planes.rows))]
    with torch.inference_mode():
        held.states[end : end + 9] = torch.arange(9.0)[:, None, None]
        apart = own._make(own.layout, 200)
        apart.move_rows(held, [end, end + 2, end + 3, end + 7], end + 1)
        held.move_rows(held, [end, end + 2, end + 3, end + 7], end + 1)
    for store in (apart, held):
        taken = [0, 2, 3, 7]
        assert store.states[end + 1 : end + 5, 0, 0].tolist() == taken
        for plane, shift in enumerate(own.planes.shift.tolist()):
            slots = [end + shift + row for row in taken]
            found = store.float_keys(plane, end + shift + 5)[-4:]
            assert torch.equal(found.nan_to_num(), before[plane][slots].nan_to_num())
            moved = values_of(store, plane, end + shift + 5)[-4:]
            assert torch.equal(moved.nan_to_num(), values[plane][slots].nan_to_num())


def test_the_last_row_that_a_plane_kept_is_found() -> None:
    planes = Planes((np.array([2, 5, 9]),), 12)
    assert planes.slots(0, np.array([9, 12])).tolist() == [2, 3]
    assert planes.holds(0, 12).tolist() == [2, 5, 9]
    assert planes.holds(0, 3).tolist() == [2, 5, 9]  # all rows before the point count as read
    for row in (10, 11):
        with pytest.raises(KeyError, match=f"dropped row {row}"):
            planes.slots(0, np.array([row]))


@pytest.mark.parametrize("cap", [0.0, 0.7])
def test_weights_are_those_of_attention(cap: float) -> None:
    """Averaged over the heads of a group, with a soft cap, and none from rows before all keys."""
    queries, keys = torch.randn(4, 2, 8), torch.randn(5, 8)
    rows, key_rows = np.array([0, 3, 4, 9]), np.array([1, 3, 4, 6, 8])
    found = received(queries, keys, rows, key_rows, cap=cap)
    assert torch.equal(found[0], torch.zeros(5))
    for i in (1, 2, 3):
        seen = torch.from_numpy(key_rows <= rows[i])
        own = torch.zeros(5)
        for head in range(2):
            scores = keys[seen] @ queries[i, head]
            scores = cap * torch.tanh(scores / cap) if cap else scores
            own[seen] += scores.softmax(0) / 2
        assert torch.allclose(found[i], own, atol=1e-6)


def test_of_equal_scores_the_first_are_best() -> None:
    scores = torch.tensor([0.0, 2.0, 1.0, 2.0, 1.0, 1.0, 3.0])
    assert best(scores, 4).tolist() == [1, 2, 3, 6]
    assert best(torch.zeros(400), 3).tolist() == [0, 1, 2]


@each_runner
def test_gathered_rows_begin_at_a_place_of_their_own_in_each_plane(runner: str) -> None:
    own = filled(runner)
    held, count = own.storage, len(own.planes.rows)
    store = own._make(own.layout, 200)
    slots = [np.array([1, 4, 5][: 1 + plane % 3]) for plane in range(count)]
    starts = [2 + 3 * (plane % 4) for plane in range(count)]
    with torch.inference_mode():
        store.gather(held, starts, slots)
    for plane, (start, taken) in enumerate(zip(starts, slots, strict=True)):
        end = start + len(taken)
        keys, kept = store.float_keys(plane, end)[start:], held.float_keys(plane, 8)[taken]
        assert torch.equal(keys, kept)
        values, kept = values_of(store, plane, end)[start:], values_of(held, plane, 8)[taken]
        assert torch.equal(values, kept)
