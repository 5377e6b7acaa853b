"""On CUDA: graphs give what `Decoder` gives there, are replayed, and let the host run ahead."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import outrider
from outrider.acceptance import Match
from outrider.core.counters import Counters
from outrider.core.types import EMPTY_DRAFT, NO_IDS, Draft, IntArray, Rows, as_ids
from outrider.models.caches.attaching import attach
from outrider.models.cuda import StaticDecoder, row_choices
from outrider.models.cuda import chain_writer as pen
from outrider.models.cuda.choosing import UNDECIDED
from outrider.models.cuda.runner import CapturedRunner
from outrider.models.cuda.transfer import fetch, upload
from outrider.models.llama.decoder import Decoder
from outrider.models.loading import load_model
from outrider.protocols import ChainRequest, Segment
from outrider.protocols.view import View
from outrider.sampling import Sampler, SamplingParams
from tests.models.cuda.test_choosing import SAMPLINGS
from tests.models.cuda.test_write import by_loop
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import begin, random_ids, tree_logits
from tests.models.setups.runners import KINDS

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]

DTYPES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.15}
"""And how far logits of about 1 may be from those of `Decoder` on the same device."""


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    return make_checkpoint(path, request.param, **KINDS[request.param])


def pair(folder: Path, dtype: torch.dtype = torch.float64) -> tuple[StaticDecoder, Decoder]:
    loaders = (StaticDecoder, Decoder)
    static, plain = (kind.load(folder, dtype=dtype, device="cuda") for kind in loaders)
    assert isinstance(static, StaticDecoder)
    return static, plain


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, whatever PyTorch knows to wait for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time the host waits for results on purpose."""
    seen: list[int] = []

    def counted(values: Tensor) -> IntArray:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        seen.append(len(values))
        found = fetch(values)
        torch.cuda.set_sync_debug_mode(mode)
        return found

    for module in (pen, row_choices):
        monkeypatch.setattr(module, "fetch", counted)
    return seen


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_logits_as_the_decoder(folder: Path, dtype: torch.dtype) -> None:
    static, plain = pair(folder, dtype)
    assert isinstance(static._runner, CapturedRunner)
    for length in (12, 40):
        text = random_ids(length)
        rows = [tree_logits(m, begin(m, text), TREE_TOKENS, TREE_PARENTS) for m in (static, plain)]
        chains = [
            m.forward([Segment(begin(m, text), as_ids([3, 4, 5]))], [np.arange(-1, 3)])[0].logits
            for m in (static, plain)
        ]
        for ours, theirs in (rows, chains):
            assert float((ours - theirs).abs().max()) <= DTYPES[dtype]


def test_graphs_are_captured_once_and_replayed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    static, plain = pair(folder)
    captures: list[object] = []
    real = torch.cuda.CUDAGraph.capture_end
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "capture_end", lambda graph: captures.append(graph) or real(graph)
    )
    ours, theirs = begin(static, random_ids(9)), begin(plain, random_ids(9))
    for step in range(20):
        tokens = as_ids([step, step + 1, step + 2])
        for model, cache in ((static, ours), (plain, theirs)):
            model.forward([Segment(cache, tokens)], [np.arange(-1, 3)])
            cache.commit(tokens[: step % 4])
    assert len(captures) == 1  # always a pending token and three more
    assert_equals_fresh_prefill(static, ours)
    assert torch.allclose(ours.keys, theirs.keys, atol=1e-9)


def test_rows_outlive_the_next_replay(folder: Path) -> None:
    static, _ = pair(folder)
    cache = begin(static, random_ids(9))
    [first] = static.forward([Segment(cache, as_ids([1]))], [np.arange(-1, 1)])
    kept = first.logits.clone()
    static.forward([Segment(cache, as_ids([2, 3]))], [as_ids([1, 2])])
    assert torch.equal(first.logits, kept)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_drafts_are_those_of_the_loop(folder: Path, sampling: str, fetches: list[int]) -> None:
    static, plain = pair(folder)
    sampler = Sampler(SamplingParams(**SAMPLINGS[sampling], seed=4))
    for length in (20, 33):
        ours, theirs = begin(static, random_ids(length)), begin(plain, random_ids(length))
        segment, _ = attach(ours, NO_IDS, EMPTY_DRAFT)
        written = static.write_chains([ChainRequest(segment, sampler, (), 7)])
        assert written is not None
        assert written[0].tolist() == by_loop(plain, theirs, NO_IDS, sampler, (), 7)
        assert_equals_fresh_prefill(static, ours.fork())
    assert len(fetches) == 2


def view(rows: Rows, draft: Draft, sampler: Sampler) -> View:
    return View(sampler, (), draft, rows, 0, "target", "model", Counters())


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_round_waits_once(folder: Path, sampling: str, fetches: list[int]) -> None:
    """A draft, its verification and the verdict, twice: the second time all is captured."""
    static, _ = pair(folder)
    sampler = Sampler(SamplingParams(**SAMPLINGS[sampling], seed=4))
    tokens = as_ids([11, 12, 13, 14])
    draft = Draft(tokens=tokens, parents=np.arange(-1, 3), sources=("draft",) * 4)
    cache = begin(static, random_ids(9))

    def verify() -> None:
        segment, want = attach(cache, NO_IDS, draft)
        [rows] = static.forward([segment], [want])
        verdict = Match()(draft, view(rows, draft, sampler))
        assert verdict.next_token is not None
        cache.commit(())

    verify()
    fetches.clear()
    with no_waiting():
        verify()
    assert fetches == [8]


def test_a_draft_waits_once(folder: Path, fetches: list[int]) -> None:
    static, _ = pair(folder)
    sampler = Sampler(SamplingParams(temperature=0.8, seed=1))
    cache = begin(static, random_ids(9))

    def draft() -> None:
        segment, _ = attach(cache, NO_IDS, EMPTY_DRAFT)
        written = static.write_chains([ChainRequest(segment, sampler, (), 6)])
        assert written is not None and UNDECIDED not in written[0]
        cache.commit(())

    draft()
    fetches.clear()
    with no_waiting():
        draft()
    assert len(fetches) == 1


def test_a_tree_is_committed_without_waiting(folder: Path) -> None:
    static, plain = pair(folder)
    ours, theirs = begin(static, random_ids(9)), begin(plain, random_ids(9))
    for m, cache in ((static, ours), (plain, theirs)):
        tree_logits(m, cache, TREE_TOKENS, TREE_PARENTS)
    with no_waiting():
        ours.commit(as_ids([12, 15, 20, 99]))
    theirs.commit(as_ids([12, 15, 20, 99]))
    assert torch.allclose(ours.keys, theirs.keys, atol=1e-9)


def test_uploads_may_be_overtaken_by_the_host() -> None:
    """Each takes a pinned buffer of its own: the fifty of them arrive, in order."""
    target = torch.zeros(1 << 16, dtype=torch.int64, device="cuda")
    seen = torch.zeros(50, dtype=torch.int64, device="cuda")
    with no_waiting():
        for i in range(50):
            upload(target, np.full(1 << 16, i))
            seen[i].copy_(target.max())
    assert fetch(seen).tolist() == list(range(50))


def test_loaded_by_name(folder: Path) -> None:
    model = load_model(folder, device="cuda")
    assert isinstance(model, StaticDecoder)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_p": 0.95, "seed": 3}])
def test_the_shipped_family_end_to_end(sampling: dict[str, float]) -> None:
    """In float64 drafted text is undrafted text on the device too."""
    texts = [
        outrider.load(mode=mode, dtype="float64", device="cuda")
        .generate("Once upon a time", max_new_tokens=60, **sampling)
        .token_ids
        for mode in ("none", "exact")
    ]
    assert texts[0] == texts[1]
