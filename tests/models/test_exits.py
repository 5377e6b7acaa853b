"""S2D: tokens that leave a model early, and layers that catch up with them."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider import kernels
from outrider.core.errors import CheckpointError, ContextError, OptionError, StrategyError
from outrider.core.layers import Exits, even_exits
from outrider.core.types import NO_IDS, Prompt, Rows, as_ids
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cuda import StaticDecoder
from outrider.models.exits.model import ExitModel
from outrider.models.llama.decoder import Decoder
from outrider.protocols import LanguageModel, Segment
from outrider.testing.rigs import tabular_family
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = pytest.mark.method("s2d")

LAYERS = 6
EXITS = Exits(layers=(1, 3, 6))
TEXT = (5, 9, 40, 3, 11, 12)
LAST = as_ids([-1])
RUNNERS: dict[str, Callable[[Path], Any]] = {
    "eager": lambda path: Decoder.load(path, dtype=torch.float32),
    "static": lambda path: StaticDecoder.load(path, dtype=torch.float32),
}
if kernels.available():
    RUNNERS["native"] = lambda path: NativeDecoder.load(path, dtype=torch.float32, threads=1)
    RUNNERS["int8"] = lambda path: NativeDecoder.load(path, dtype=torch.int8, threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp("model"), num_hidden_layers=LAYERS, vocab_size=48, std=0.2
    )


@pytest.fixture(scope="module", params=RUNNERS)
def inner(request: Any, folder: Path) -> Any:
    return RUNNERS[request.param](folder)


@pytest.fixture(scope="module")
def eager(folder: Path) -> Decoder:
    return Decoder.load(folder, dtype=torch.float32)


class Steered(ExitModel):
    """A model whose rows leave at the exits that `path` lists, one for each forward."""

    path: list[int]

    def _leaves(self, level: int, place: Any) -> bool:
        return level >= self.path[0]

    def forward(self, segments: Any, want: Any) -> Any:
        found = super().forward(segments, want)
        self.path.pop(0)
        return found


def steered(inner: Any, *path: int) -> Steered:
    made = Steered(inner, exits=EXITS)
    made.path = list(path)
    return made


def assert_equals_full(inner: Any, cache: Any, logits: torch.Tensor) -> None:
    """The cache after catch-up equals a full forward: to the bit where rows are independent."""
    [fresh] = inner.start([Prompt(token_ids=tuple(cache.text))])
    [full] = inner.forward([Segment(fresh, NO_IDS)], [LAST])
    count = len(cache.text)
    pairs = [*zip(cache.storage.first(count), fresh.storage.first(count), strict=True)]
    exact = inner.info.batch_invariant
    for ours, theirs in (*pairs, (logits, full.logits)):
        assert torch.equal(ours, theirs) if exact else torch.allclose(ours, theirs, atol=2e-5)


def after(inner: Any, model: Steered, cache: Any) -> None:
    """Go to the last exit from here, and compare."""
    model.path = [2]
    [rows] = model.forward([Segment(cache, NO_IDS)], [LAST])
    assert_equals_full(inner, cache, rows.logits)


@pytest.mark.parametrize("path", [(0, 0, 0, 0, 0), (0, 1, 0, 2, 0), (1, 2, 2, 1, 1)])
@pytest.mark.parametrize("kept", [0, 3])
def test_cache_after_catch_up_equals_a_full_forward(inner: Any, path: Any, kept: int) -> None:
    model = steered(inner, *path)
    [cache] = model.start([Prompt(token_ids=TEXT)])
    segment, want = Segment(cache, NO_IDS), LAST
    for token in (1, 2, 3, 4, 5):
        model.forward([segment], [want])
        segment, want = Segment(cache, as_ids([token])), as_ids([cache.num_speculative])
    cache.commit([*range(1, kept + 1), 20, 21])
    after(inner, model, cache)


def test_trees_are_caught_up_with(inner: Any) -> None:
    """Levels of a tree; a path through it is committed, and its rows move."""
    model = steered(inner, 1, 0, 1, 2)
    [cache] = model.start([Prompt(token_ids=TEXT)])
    model.forward([Segment(cache, as_ids([1, 2]), as_ids([-1, -1]))], [as_ids([0, 1])])
    model.forward([Segment(cache, as_ids([3, 4, 5]), as_ids([1, 0, 1]))], [as_ids([2, 3, 4])])
    twin = cache.fork()  # has no record: all its rows are read again
    model.forward([Segment(cache, as_ids([6]), as_ids([4]))], [as_ids([5])])
    [rows] = model.forward([Segment(cache, as_ids([7, 8]), as_ids([5, 3]))], [as_ids([6, 7])])
    path = Prompt(token_ids=(*TEXT, 2, 5, 6, 7))
    [fresh] = inner.start([path])
    [full] = inner.forward([Segment(fresh, NO_IDS)], [LAST])
    assert torch.allclose(rows.logits[0], full.logits[0], atol=2e-5)
    for one in (cache, twin):
        one.commit([2, 5, 30])
        after(inner, model, one)


def test_committed_rows_of_a_tree_move(inner: Any) -> None:
    """A row that only the first exit has seen moves to a slot that deeper layers have read."""
    model = steered(inner, 2, 0)
    [cache] = model.start([Prompt(token_ids=TEXT)])
    model.forward([Segment(cache, as_ids([1, 2]), as_ids([-1, -1]))], [as_ids([0, 1])])
    model.forward([Segment(cache, as_ids([3, 4]), as_ids([1, 0]))], [as_ids([2, 3])])
    cache.commit([2, 3, 30])
    after(inner, model, cache)


def test_rows_that_nobody_asks_for_stay_at_the_first_exit(eager: Decoder) -> None:
    """Texts that are read in parts."""
    model = steered(eager, 0, 0)
    [cache] = model.start([Prompt(token_ids=TEXT[:1])])
    for part in (TEXT[1:4], TEXT[4:]):
        cache.commit(part)
        model.forward([Segment(cache, NO_IDS)], [NO_IDS])
    assert model.work.calls == [2, 0, 0] and model.work.left == [0, 0, 0]
    cache.commit([8])
    after(eager, model, cache)


def test_prompts_share_and_continue(inner: Any) -> None:
    """Equal prompts are forked; the next turn keeps what all layers have read of its beginning."""
    model = steered(inner, 2, 0)
    same = Prompt(token_ids=TEXT)
    first, second = model.start([same, same])
    model.forward([Segment(first, NO_IDS), Segment(second, NO_IDS)], [LAST, LAST])
    for cache in (first, second):
        cache.commit([7, 8])
    model.forward([Segment(first, NO_IDS)], [LAST])
    first.commit([9])
    after(inner, model, second)
    [again] = model.start([Prompt(token_ids=(*TEXT, 7, 30, 31, 32))], [first])
    after(inner, model, again)
    [other] = model.start([Prompt(token_ids=(*TEXT[:3], 30, 31, 32, 33))], [again])
    after(inner, model, other)


def test_one_call_catches_up(eager: Decoder) -> None:
    model = steered(eager, 0, 0, 0, 2)
    [cache] = model.start([Prompt(token_ids=TEXT)])
    segment, want = Segment(cache, NO_IDS), LAST
    for token in (1, 2, 3):
        model.forward([segment], [want])
        segment, want = Segment(cache, as_ids([token])), as_ids([cache.num_speculative])
    assert model.work.calls == [3, 0, 0]
    model.forward([segment], [want])
    assert model.work.calls == [4, 1, 1] and model.work.rows == [9, 9, 9]


def test_long_texts_are_caught_up_in_parts(eager: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outrider.models.exits.model.PREFILL_CHUNK", 4)
    model = steered(eager)
    [cache] = model.start([Prompt(token_ids=(*TEXT, *TEXT))])
    after(eager, model, cache)
    assert model.work.calls == [1, 3, 3]


def leaving(model: ExitModel, text: tuple[int, ...]) -> list[int]:
    """The exit of each token of a text."""
    [cache] = model.start([Prompt(token_ids=text[:1])])
    segment, want, found = Segment(cache, NO_IDS), LAST, list[int]()
    for token in text[1:]:
        before = list(model.work.left)
        model.forward([segment], [want])
        [level] = np.flatnonzero(np.subtract(model.work.left, before))
        found.append(int(level))
        segment, want = Segment(cache, as_ids([token])), as_ids([cache.num_speculative])
    return found


def test_thresholds_order_the_exits(eager: Decoder) -> None:
    """0 leaves at the first exit, 1 at the last; between them no token leaves earlier than under
    a lower threshold."""
    text = tuple(np.random.default_rng(0).integers(0, 48, 24).tolist())
    grid = (0.0, 0.15, 0.3, 0.6, 1.0)
    found = [leaving(ExitModel(eager, exits=EXITS, thresholds=one), text) for one in grid]
    assert set(found[0]) == {0} and set(found[-1]) == {2}
    assert {level for path in found[1:-1] for level in path} == {0, 1, 2}
    for lower, higher in pairwise(found):
        assert all(a <= b for a, b in zip(lower, higher, strict=True))
        assert sum(lower) <= sum(higher)


def test_each_exit_has_its_threshold(eager: Decoder) -> None:
    assert set(leaving(ExitModel(eager, exits=EXITS, thresholds=(1.0, 0.0)), TEXT)) == {1}
    assert set(leaving(ExitModel(eager, exits=EXITS, thresholds=(0.0, 1.0)), TEXT)) == {0}


def test_a_certain_token_does_not_leave_at_threshold_one(eager: Decoder) -> None:
    class Certain(ExitModel):
        def _leaves(self, level: int, place: Any) -> bool:
            place.rows = Rows(torch.tensor([[1e6, 0.0, 0.0]]))
            return super()._leaves(level, place)

    assert set(leaving(Certain(eager, exits=EXITS, thresholds=1.0), TEXT)) == {2}


def test_exits_share_norm_and_head(eager: Decoder) -> None:
    """The logits of an exit are those of a model that ends there."""
    assert eager.hidden_states is not None
    [cache] = eager.start([Prompt(token_ids=TEXT)])
    eager.watch(cache, EXITS.layers[:-1])
    [full] = eager.forward([Segment(cache, NO_IDS)], [LAST])
    assert full.states is not None
    for level, states in enumerate(full.states):
        model = steered(eager, level)
        [own] = model.start([Prompt(token_ids=TEXT)])
        [rows] = model.forward([Segment(own, NO_IDS)], [LAST])
        assert torch.allclose(rows.logits, eager.read_out(states), atol=1e-5)


def test_logits_that_are_no_numbers_leave(eager: Decoder) -> None:
    class Broken(ExitModel):
        def _leaves(self, level: int, place: Any) -> bool:
            place.rows = Rows(torch.full((1, 3), torch.nan))
            return super()._leaves(level, place)

    assert set(leaving(Broken(eager, exits=EXITS, thresholds=1.0), TEXT)) == {0}


def test_the_window_ends_as_in_the_whole_model(eager: Decoder) -> None:
    model = ExitModel(eager, exits=EXITS, thresholds=1.0)
    size = eager.info.context_length
    [cache] = model.start([Prompt(token_ids=(1,) * (size - 1))])
    assert cache.remaining == 1
    with pytest.raises(ContextError):
        model.forward([Segment(cache, as_ids([1, 2]))], [LAST])
    with pytest.raises(ContextError, match="is empty"):
        model.start([Prompt(token_ids=())])


def test_it_is_a_language_model(eager: Decoder) -> None:
    model = ExitModel(eager)
    assert isinstance(model, LanguageModel)
    assert model.exits == even_exits(LAYERS) == Exits(layers=(2, 4, 6))
    assert even_exits(1).layers == (1,) and even_exits(2).layers == (1, 2)
    assert model.info.fingerprint == eager.info.fingerprint


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"exits": Exits(layers=(1, 3))}, "the last exit"),
        ({"thresholds": (0.5,)}, "3 exits have the thresholds"),
        ({"thresholds": 1.5}, "3 exits have the thresholds"),
        ({"thresholds": float("nan")}, "3 exits have the thresholds"),
    ],
)
def test_bad_exits_are_refused(eager: Decoder, options: Any, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        ExitModel(eager, **options)


@pytest.mark.parametrize("layers", [(), (0, 6), (2, 2, 6), (4, 2, 6)])
def test_exits_ascend(layers: Any) -> None:
    with pytest.raises(OptionError, match="exits are after layers"):
        Exits(layers=layers)


def test_models_of_others_are_refused() -> None:
    with pytest.raises(StrategyError, match="no early exits"):
        ExitModel(tabular_family().draft)


def test_replayed_rows_leave_the_others_as_they_are(eager: Decoder) -> None:
    """Also where a fork shares the storage."""
    whole = eager.keeping((1,))
    cache: Any
    [cache] = whole.start([Prompt(token_ids=TEXT)])
    whole.segment(0, 1).forward([Segment(cache, as_ids([1, 2, 3]))], [NO_IDS])
    before = [half.clone() for half in cache.storage.first(cache.rows)]
    twin = cache.fork()
    cache.replay(0, 4, 1, NO_IDS)
    whole.segment(1, 6).forward([Segment(cache, NO_IDS)], [NO_IDS])
    for old, new, other in zip(before, cache.storage.first(9), twin.storage.first(9), strict=True):
        assert torch.equal(new[0], old[0]) and torch.equal(other, old)
        assert cache.rows == 9


def test_rows_that_are_not_there_are_not_replayed(eager: Decoder) -> None:
    model = steered(eager)
    cache: Any
    [cache] = model.start([Prompt(token_ids=TEXT)])
    with pytest.raises(IndexError, match="rows 2 to 9 of 5 rows"):
        cache.replay(2, 9, 1, LAST)


def test_the_checkpoint_tells_its_exits(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    facts = {"format": "outrider-exits-1", "exits": [1, 3, 6], "thresholds": {"x": [0.1, 0.9]}}
    (tmp_path / "exits.json").write_text(json.dumps(facts))
    found = Decoder.load(tmp_path).info.exits
    assert found == Exits(layers=(1, 3, 6), thresholds={"x": (0.1, 0.9)})
    assert Decoder.load(folder).info.exits is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": "other", "exits": [6]}',
        '{"format": "outrider-exits-1"}',
        '{"format": "outrider-exits-1", "exits": [3, 1]}',
        '{"format": "outrider-exits-1", "exits": [1, 6], "thresholds": {"x": [0.1, 0.2]}}',
        '{"format": "outrider-exits-1", "exits": [1, 6], "thresholds": 3}',
    ],
)
def test_damaged_exits_are_refused(folder: Path, tmp_path: Path, text: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "exits.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be used"):
        Decoder.load(tmp_path)
