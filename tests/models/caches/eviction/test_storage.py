"""Planes that hold other rows, their storage, and models that make less use of caches."""

from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.errors import StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS
from outrider.models.caches.bookkeeping import Run
from outrider.models.caches.eviction.cache import CacheView
from outrider.models.caches.eviction.planes import Planes, whole_planes
from outrider.models.caches.eviction.storage import runs_of
from outrider.models.cuda import StaticDecoder
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.caches.eviction.setups import (
    NAMES,
    begin,
    checkpoint,
    ids,
    kept,
    look,
    model,
    needs_kernels,
    policy,
    runner_cases,
    under,
    write,
)

TEXT, MORE = ids(14, 3), ids(23, 4)


def rows(*given: int) -> np.ndarray:
    return np.array(given, dtype=np.int64)


def test_planes_tell_where_rows_lie() -> None:
    planes = Planes((rows(0, 3, 7), rows(), rows(*range(8))), 8)
    assert planes.shift.tolist() == [-5, -8, 0]
    assert planes.slots(0, rows(0, 7, 8, 10)).tolist() == [0, 2, 3, 5]
    assert planes.slots(1, rows(8, 9)).tolist() == [0, 1]
    assert planes.holds(0, 10).tolist() == [0, 3, 7, 8, 9]
    assert planes.holds(1, 8).tolist() == []
    assert planes.sizes(72).tolist() == [128, 64, 128]
    for plane, row in ((0, 1), (0, 5), (1, 0), (1, 7)):
        with pytest.raises(KeyError, match=f"plane {plane} has dropped row {row}"):
            planes.slots(plane, rows(row, 9))
    assert whole_planes(2).slots(1, rows(0, 4)).tolist() == [0, 4]


def test_runs_of_slots() -> None:
    assert [(r.start, r.stop, r.source) for r in runs_of([3, 4, 7], 2)] == [(2, 4, 3), (4, 5, 7)]
    assert runs_of([], 0) == []


@pytest.mark.parametrize("runner", runner_cases())
def test_rows_behind_the_kept_ones_can_move(runner: str) -> None:
    """Each plane moves them from other slots to other slots."""
    one = under("h2o", runner, "mha")
    own = begin(one, TEXT)
    write(one, own, MORE[:1])
    store = own.storage
    end, planes = store.planes.end, range(len(store.planes.rows))
    before = [store.float_keys(plane, store.planes.sizes(40)[plane]).clone() for plane in planes]
    values = store.values.clone()
    with torch.inference_mode():
        store.move_run(store, Run(end + 1, end + 3, end))
        store.move_rows(store, [end + 2], end)
    for plane, shift in enumerate(store.planes.shift.tolist()):
        at = end + shift
        found = store.float_keys(plane, at + 3)
        expected = before[plane][[*range(at), at + 1, at, at + 1]]
        assert torch.allclose(found, expected, atol=0, equal_nan=True)
    assert not torch.equal(store.values, values)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_read_again_after_weights_have_changed(name: str) -> None:
    one = under(name)
    own, fresh = begin(one, TEXT), begin(one, TEXT)
    write(one, own, MORE[:8])
    write(one, fresh, MORE[:8])
    own.renew(1)
    assert own.length == 0 and own.version == 1
    assert torch.allclose(look(one, own), look(one, fresh), rtol=0, atol=1e-9)
    assert torch.allclose(write(one, own, MORE[8:15]), write(one, fresh, MORE[8:15]), atol=1e-9)
    assert kept(own) == kept(fresh)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_some_layers_runs_under_the_policy(name: str) -> None:
    """Layers that do not run have no queries; what policies make of them is the same each time."""
    same_shares = {"adaptive": False} if name == "actqkv" else {}  # keys of other layers are unset
    one = under(name, **same_shares).subset(LayerSet.of_layers(2, [1]))
    texts = [write(one, begin(one, TEXT), MORE) for _ in range(2)]
    assert torch.isfinite(texts[0]).all() and torch.equal(*texts)


@needs_kernels
def test_chains_that_are_written_at_once_leave_no_queries() -> None:
    """The rows behind the first one are read elsewhere; a policy goes on without their queries."""
    one = under("h2o", "float32", chunk=0)
    own, plain = begin(one, TEXT), begin(one, TEXT)
    for each in (own, plain):  # the first point lies behind the last token of the prompt
        write(one, each, [1])
    sampler = Sampler(SamplingParams.of(temperature=0.0))
    [tokens] = one.write_chains([ChainRequest(Segment(own, NO_IDS), sampler, [], 3)]) or [NO_IDS]
    expected = [int(row.argmax()) for row in write_greedy(one, plain, 3)]
    assert tokens.tolist() == expected
    assert own.num_speculative == 2 and not own._log.drafted
    own.commit([*tokens, 1])
    assert own._log.rows.tolist() == [14] and plain._log.rows.tolist() == [14, 15, 16]
    assert torch.isfinite(write(one, own, MORE)).all()


def write_greedy(one: Any, own: Any, count: int) -> list[torch.Tensor]:
    found = []
    for _ in range(count):
        found.append(look(one, own))
        write(one, own, [int(found[-1].argmax())])
    return found


def test_early_exits_and_policies_exclude_each_other() -> None:
    with pytest.raises(StrategyError, match="read rows twice"):
        under("h2o").segment(0, 1)


def test_a_runner_with_static_shapes_uses_the_plain_one() -> None:
    static = StaticDecoder.load(checkpoint("llama"), dtype=torch.float64)
    one = static.under(policy("h2o", static))
    other = under("h2o")
    ours, theirs = (write(each, begin(each, TEXT), MORE) for each in (one, other))
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


def test_layers_that_do_not_turn_keys_have_none_turned() -> None:
    """The first rows move in the first layer only; their keys in the second have no position."""
    one = under("streaming", kind="unturned")
    assert one.config.rotary == (True, False)
    own = begin(one, ids(20))
    for plane in range(4):
        ours, read = (store.float_keys(plane, 2) for store in (own.storage, own._archive))
        assert torch.equal(ours, read) == (plane >= 2)
    view, keys, turns = CacheView(own), torch.ones(2, 3, 8), rows(4, 5, 6)
    assert torch.equal(view.turned(1, keys, turns), keys)
    assert not torch.equal(view.turned(0, keys, turns), keys)


def test_a_fork_that_reads_again_gives_back_its_archive() -> None:
    one = under("infllm")
    own = begin(one, TEXT)
    write(one, own, MORE)
    twin = own.fork()
    assert len(own._archive.readers) == 2
    twin.truncate(1)
    assert len(own._archive.readers) == 1


def test_rotary_tables_grow_in_steps_beyond_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each token of a long text would compute all angles again."""
    from outrider.models.llama.rope import RotaryTable

    grown, before = [], RotaryTable._grow

    def grow(self: RotaryTable, length: int) -> None:
        grown.append(length)
        before(self, length)

    monkeypatch.setattr(RotaryTable, "_grow", grow)
    table = RotaryTable(model().config.rope, torch.float64, torch.device("cpu"))
    for bound in range(1, 600):
        table.at(torch.tensor([bound - 1]), bound)
    assert len(grown) < 16
