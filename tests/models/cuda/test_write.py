"""A draft written on the device is the draft that the token-by-token loop writes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.errors import LogitsError
from outrider.core.types import EMPTY_DRAFT, NO_IDS, IntArray, Prompt, as_ids
from outrider.models.caches.attaching import attach
from outrider.models.cuda import StaticDecoder
from outrider.models.cuda import chain_writer as pen_module
from outrider.models.llama.decoder import Decoder
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.cuda.models import static
from tests.models.cuda.test_choosing import SAMPLINGS
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import begin, close, random_ids, tree_logits
from tests.models.setups.runners import KINDS, kind_cases

SHAPE: dict[str, Any] = {"std": 0.3, "max_position_embeddings": 300}


@pytest.fixture(scope="module", params=kind_cases())
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    kinds = KINDS[request.param]
    return make_checkpoint(path, request.param, dtype=torch.float64, **SHAPE, **kinds)


@pytest.fixture(scope="module")
def model(folder: Path) -> StaticDecoder:
    return static(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Decoder:
    return Decoder.load(folder, dtype=torch.float64)


def by_loop(
    model: Decoder, cache: Any, tail: IntArray, sampler: Sampler, before: Sequence[int], depth: int
) -> list[int]:
    """One forward and one choice after the other, as a drafter without `write` does it."""
    segment, want = attach(cache, tail, EMPTY_DRAFT)
    tokens: list[int] = []
    while True:
        [rows] = model.forward([segment], [want])
        try:
            tokens.append(sampler.choose(rows.logits[0], [*before, *tokens]))
        except LogitsError:
            return tokens
        if len(tokens) == depth or tokens[-1] in sampler.end_ids:
            return tokens
        segment, want = Segment(cache, as_ids(tokens[-1:])), as_ids([cache.num_speculative])


def by_device(
    model: StaticDecoder,
    cache: Any,
    tail: IntArray,
    sampler: Sampler,
    before: Sequence[int],
    depth: int,
) -> list[int]:
    segment, _ = attach(cache, tail, EMPTY_DRAFT)
    written = model.write_chains([ChainRequest(segment, sampler, before, depth)])
    assert written is not None
    return written[0].tolist()


def assert_same_books(ours: Any, theirs: Any) -> None:
    for name in ("text", "pending", "fed", "num_speculative"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours._tokens, ours._parents) == (theirs._tokens, theirs._parents)


@pytest.mark.parametrize("sampling", ["greedy", "all"])
def test_same_as_the_loop(model: StaticDecoder, plain: Decoder, sampling: str) -> None:
    write_rounds(model, plain, sampling)


OTHER_SAMPLINGS = [name for name in SAMPLINGS if name not in ("greedy", "all")]


@pytest.mark.parametrize("sampling", OTHER_SAMPLINGS)
@pytest.mark.parametrize("folder", ["qwen2"], indirect=True)
def test_every_sampling_is_that_of_the_loop(
    model: StaticDecoder, plain: Decoder, sampling: str
) -> None:
    """On one model, with a window in one of its layers: choices depend on logits alone."""
    write_rounds(model, plain, sampling)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", OTHER_SAMPLINGS)
@pytest.mark.parametrize("folder", kind_cases(without="qwen2"), indirect=True)
def test_every_sampling_of_every_kind_is_that_of_the_loop(
    model: StaticDecoder, plain: Decoder, sampling: str
) -> None:
    write_rounds(model, plain, sampling)


def write_rounds(model: StaticDecoder, plain: Decoder, sampling: str) -> None:
    """Round after round; what is emitted agrees with part of what was written."""
    sampler = Sampler(SamplingParams(**SAMPLINGS[sampling], seed=4))
    ours, theirs = (begin(m, random_ids(21)) for m in (model, plain))
    output: list[int] = []
    for depth, kept in ((6, 6), (1, 0), (5, 2), (3, 3)):
        written = by_device(model, ours, NO_IDS, sampler, output, depth)
        assert written == by_loop(plain, theirs, NO_IDS, sampler, output, depth)
        assert len(written) == depth
        assert_same_books(ours, theirs)
        emitted = as_ids([*written[:kept], 7])
        for cache in (ours, theirs):
            cache.commit(emitted)
        output += emitted.tolist()
        assert_equals_fresh_prefill(model, ours)


@pytest.mark.parametrize("sampling", ["greedy", "all"])
def test_behind_a_tree_and_a_tail(model: StaticDecoder, plain: Decoder, sampling: str) -> None:
    """The tail leaves the tree at node 3: what follows sees that branch alone."""
    sampler = Sampler(SamplingParams(**SAMPLINGS[sampling], seed=4))
    text, tail = random_ids(30), as_ids([11, 14, 60, 61])
    ours, theirs = (begin(m, text) for m in (model, plain))
    for m, cache in ((model, ours), (plain, theirs)):
        tree_logits(m, cache, TREE_TOKENS, TREE_PARENTS)
    written = by_device(model, ours, tail, sampler, tail.tolist(), 6)
    assert written == by_loop(plain, theirs, tail, sampler, tail.tolist(), 6)
    assert_same_books(ours, theirs)
    row = as_ids([ours.num_speculative])
    last = [as_ids(written[-1:]), row]
    pairs = [(m, Segment(c, last[0])) for m, c in ((model, ours), (plain, theirs))]
    [[a], [b]] = [m.forward([segment], [last[1]]) for m, segment in pairs]
    close(a.logits, b.logits, 1e-9)
    ours.commit(as_ids([*tail.tolist(), *written]))
    assert_equals_fresh_prefill(model, ours)


def test_chains_after_a_draft_behind_a_tree(model: StaticDecoder) -> None:
    """What a draft marked in the shared inputs is gone afterwards."""
    sampler = Sampler(SamplingParams())
    tall = begin(model, random_ids(60))
    tree_logits(model, tall, TREE_TOKENS, TREE_PARENTS)
    by_device(model, tall, as_ids([12, 50]), sampler, [], 8)
    short = begin(model, random_ids(20))
    by_device(model, short, NO_IDS, sampler, [], 3)
    short.commit(())
    assert_equals_fresh_prefill(model, short)


def test_nothing_follows_an_end_token(model: StaticDecoder, plain: Decoder) -> None:
    free = by_loop(plain, begin(plain, random_ids(9)), NO_IDS, Sampler(SamplingParams()), (), 8)
    sampler = Sampler(SamplingParams(), end_ids=(free[3],))
    ours, theirs = (begin(m, random_ids(9)) for m in (model, plain))
    written = by_device(model, ours, NO_IDS, sampler, (), 8)
    assert written == by_loop(plain, theirs, NO_IDS, sampler, (), 8)
    assert written == free[: free.index(free[3]) + 1]
    assert_same_books(ours, theirs)


def test_growth_in_the_middle_of_a_draft(model: StaticDecoder, plain: Decoder) -> None:
    sampler = Sampler(SamplingParams(temperature=1.0, seed=2))
    ours, theirs = (begin(m, random_ids(252)) for m in (model, plain))
    written = by_device(model, ours, NO_IDS, sampler, (), 12)
    assert written == by_loop(plain, theirs, NO_IDS, sampler, (), 12)
    assert ours.capacity == 300


def test_a_draft_ends_with_the_window(model: StaticDecoder, plain: Decoder) -> None:
    sampler = Sampler(SamplingParams())
    ours, theirs = (begin(m, random_ids(297)) for m in (model, plain))
    written = by_device(model, ours, NO_IDS, sampler, (), 50)
    assert written == by_loop(plain, theirs, NO_IDS, sampler, (), 4)
    assert_same_books(ours, theirs)


def test_longer_than_one_run(
    model: StaticDecoder, plain: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.models.cuda.decoder.RUN", 3)
    sampler = Sampler(SamplingParams(temperature=1.0, seed=2))
    ours, theirs = (begin(m, random_ids(20)) for m in (model, plain))
    written = by_device(model, ours, NO_IDS, sampler, (), 8)
    assert written == by_loop(plain, theirs, NO_IDS, sampler, (), 8)
    assert_same_books(ours, theirs)


def test_the_host_decides_what_the_device_can_not(
    model: StaticDecoder, plain: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two candidates most nuclei are left open."""
    monkeypatch.setattr("outrider.models.cuda.choosing._CANDIDATES", 2)
    runs: list[int] = []
    run = pen_module.Pen.run
    monkeypatch.setattr(
        pen_module.Pen, "run", lambda self, *given: runs.append(given[-1]) or run(self, *given)
    )
    sampler = Sampler(SamplingParams(temperature=1.2, top_p=0.9, seed=2))
    ours, theirs = (begin(m, random_ids(20)) for m in (model, plain))
    written = by_device(model, ours, NO_IDS, sampler, (), 9)
    assert written == by_loop(plain, theirs, NO_IDS, sampler, (), 9)
    assert_same_books(ours, theirs)
    assert len(runs) > 2


def test_unusable_logits_end_a_draft(folder: Path) -> None:
    """The third token written cannot be read."""
    model, plain = static(folder), Decoder.load(folder, dtype=torch.float64)
    sampler = Sampler(SamplingParams(temperature=1.0, seed=6))
    free = by_loop(plain, begin(plain, random_ids(9)), NO_IDS, sampler, (), 5)
    poison = free[2]
    for m in (model, plain):
        m.weights.embed[poison] = math.nan
    ours, theirs = (begin(m, random_ids(9)) for m in (model, plain))
    written = by_device(model, ours, NO_IDS, sampler, (), 5)
    assert written == by_loop(plain, theirs, NO_IDS, sampler, (), 5)
    assert written == free[: free.index(poison) + 1]
    assert_same_books(ours, theirs)
    bad = begin(model, (*random_ids(4), poison))
    assert by_device(model, bad, NO_IDS, sampler, (), 5) == []


def test_what_is_not_plain_is_refused_and_nothing_done(model: StaticDecoder) -> None:
    caches = [begin(model, random_ids(5)) for _ in range(3)]
    segments = [attach(cache, NO_IDS, EMPTY_DRAFT)[0] for cache in caches]
    odd, even = Sampler(SamplingParams(repetition_penalty=1.2)), Sampler(SamplingParams())
    chains = [ChainRequest(segment, even, (), 3) for segment in segments]
    assert model.write_chains([chains[0], replace(chains[1], sampler=odd)]) is None
    assert model.write_chains(chains) is None
    assert not any(cache.fed for cache in caches)


def test_two_texts(model: StaticDecoder, plain: Decoder) -> None:
    samplers = [Sampler(SamplingParams(temperature=1.0, seed=s)) for s in (1, 2)]
    prompts = [Prompt(token_ids=random_ids(n, seed=n)) for n in (5, 80)]
    segments = [attach(c, NO_IDS, EMPTY_DRAFT)[0] for c in model.start(prompts)]
    chains = zip(segments, samplers, ((), ()), (3, 5), strict=True)
    written = model.write_chains([ChainRequest(*chain) for chain in chains])
    assert written is not None
    for tokens, sampler, prompt, depth in zip(written, samplers, prompts, (3, 5), strict=True):
        [cache] = plain.start([prompt])
        assert tokens.tolist() == by_loop(plain, cache, NO_IDS, sampler, (), depth)


def test_no_depth_reads_nothing(model: StaticDecoder) -> None:
    cache = begin(model, random_ids(5))
    segment, _ = attach(cache, NO_IDS, EMPTY_DRAFT)
    written = model.write_chains([ChainRequest(segment, Sampler(SamplingParams()), (), 0)])
    assert written is not None and len(written[0]) == 0 and not cache.fed


def test_a_fork_keeps_its_rows(model: StaticDecoder) -> None:
    cache = begin(model, random_ids(40))
    twin = cache.fork()
    by_device(model, cache, NO_IDS, Sampler(SamplingParams()), (), 9)
    assert_equals_fresh_prefill(model, twin)
    assert np.array_equal(cache.text, twin.text)
