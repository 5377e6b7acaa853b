"""Chains, trees, batches, rollbacks and forks give what plain `transformers` passes give."""

from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.errors import ContextError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.models.transformers.model import TransformersModel
from outrider.protocols import Request, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import pyramid
from tests.models.built import ALSO_RUNS, RUNS, BuiltReference, build
from tests.models.invariants import assert_equals_fresh_prefill
from tests.models.reference import begin, close, next_logits, random_ids, tree_logits

TREE_PARENTS = as_ids([-1, -1, 0, 0, 1, 2, 2, -1, 5, 4, 8, 10, 11])
TREE_TOKENS = as_ids([11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23])
"""Its longest path, seven nodes, is longer than the windows."""

Pair = tuple[Any, BuiltReference]


@pytest.fixture(scope="module", params=RUNS)
def pair(request: pytest.FixtureRequest) -> Pair:
    model = build(*RUNS[request.param])
    return TransformersModel(model), BuiltReference(model)


def test_chain_in_pieces(pair: Pair) -> None:
    model, reference = pair
    text = random_ids(40)
    whole = reference.logits(text)
    cache = begin(model, text[:20])
    [first] = model.forward([Segment(cache, as_ids(text[20:25]))], [np.arange(-1, 5)])
    close(first.logits, whole[19:25])
    [second] = model.forward([Segment(cache, as_ids(text[25:]))], [np.arange(5, 20)])
    close(second.logits, whole[25:])


def test_one_token_at_a_time(pair: Pair) -> None:
    model, reference = pair
    text = random_ids(16)
    cache = begin(model, text[:1])
    rows = [next_logits(model, cache)]
    for token in text[1:]:
        cache.commit([token])
        rows.append(next_logits(model, cache))
    close(torch.stack(rows), reference.logits(text))


def test_tree_behind_several_pending_tokens_and_in_two_forwards(pair: Pair) -> None:
    model, reference = pair
    text = random_ids(12)
    cache = begin(model, text[:9])
    cache.commit(as_ids(text[9:]))
    assert len(cache.pending) == 4
    expected = reference.node_logits(text, TREE_TOKENS, TREE_PARENTS)
    first = Segment(cache, TREE_TOKENS[:4], TREE_PARENTS[:4])
    [rows] = model.forward([first], [np.arange(-1, 4)])
    close(rows.logits, expected[:5])
    second = Segment(cache, TREE_TOKENS[4:], TREE_PARENTS[4:])
    [rows] = model.forward([second], [np.arange(4, 13)])
    close(rows.logits, expected[5:])


def test_rows_come_in_the_order_wanted_with_what_the_head_read(pair: Pair) -> None:
    model, _ = pair
    text = random_ids(8)
    whole = tree_logits(model, begin(model, text), TREE_TOKENS, TREE_PARENTS)
    want = as_ids([7, -1, 3, 7])
    [rows] = model.forward([Segment(begin(model, text), TREE_TOKENS, TREE_PARENTS)], [want])
    close(rows.logits, whole[want + 1])
    assert rows.hidden.shape == (4, model.hidden_size)
    with torch.no_grad():
        heads = model.model.get_output_embeddings()(rows.hidden)
    cap = getattr(model.model.config, "final_logit_softcapping", None)
    close(cap * torch.tanh(heads / cap) if cap else heads, rows.logits)
    assert not model.model.get_output_embeddings()._forward_pre_hooks


def test_ragged_batch(pair: Pair) -> None:
    """A tree, a chain, a lone pending token, one that asks for nothing, one that feeds nothing."""
    model, reference = pair
    texts = [random_ids(n, seed=n) for n in (7, 30, 1, 12, 9)]
    caches = model.start([Prompt(token_ids=t) for t in texts])
    next_logits(model, caches[4])
    chain = as_ids([5, 6, 7])
    segments = [
        Segment(caches[0], TREE_TOKENS, TREE_PARENTS),
        Segment(caches[1], chain),
        Segment(caches[2], NO_IDS),
        Segment(caches[3], chain),
        Segment(caches[4], NO_IDS),
    ]
    want = [np.arange(-1, 13), as_ids([2, 0]), as_ids([-1]), NO_IDS, NO_IDS]
    rows = model.forward(segments, want)
    assert [len(r.logits) for r in rows] == [14, 2, 1, 0, 0]
    close(rows[0].logits, reference.node_logits(texts[0], TREE_TOKENS, TREE_PARENTS))
    close(rows[1].logits, reference.logits([*texts[1], 5, 6, 7])[[-1, -3]])
    close(rows[2].logits, reference.logits(texts[2]))
    [later] = model.forward([Segment(caches[3], as_ids([8]))], [as_ids([3])])
    close(later.logits, reference.logits([*texts[3], 5, 6, 7, 8])[-1:])


@pytest.mark.parametrize(
    "emitted",
    [
        (11, 13, 16, 19, 99),  # nodes 0, 2, 5, 8: a path that is not contiguous
        (11, 13, 16, 19, 21, 22, 23, 99),  # beyond the windows
        (11, 13, 16),  # a whole path without a next token: its end is read again
        (11, 99, 98),  # leaves the tree early, two tokens pending
        (99,),  # everything refused
        (18, 50),  # a late sibling
    ],
)
def test_commit_after_a_tree(pair: Pair, emitted: tuple[int, ...]) -> None:
    model, reference = pair
    text = random_ids(12)
    cache = begin(model, text)
    tree_logits(model, cache, TREE_TOKENS, TREE_PARENTS)
    cache.commit(as_ids(emitted))
    expected = reference.node_logits([*text, *emitted], TREE_TOKENS, TREE_PARENTS)
    close(tree_logits(model, cache, TREE_TOKENS, TREE_PARENTS), expected)


def test_forgetting_a_round_and_truncating(pair: Pair) -> None:
    model, reference = pair
    text = random_ids(30)
    whole = reference.logits(text)
    cache = begin(model, text)
    tree_logits(model, cache, TREE_TOKENS, TREE_PARENTS)
    cache.commit(())
    close(next_logits(model, cache), whole[-1])
    for length in (29, 14, 1):
        cache.truncate(length)
        close(next_logits(model, cache), whole[length - 1])


@pytest.mark.parametrize("part", ["text", "round"])
def test_forks_diverge(pair: Pair, part: str) -> None:
    model, reference = pair
    text = random_ids(20)
    cache = begin(model, text)
    if part == "round":
        tree_logits(model, cache, TREE_TOKENS, TREE_PARENTS)
    twins = [cache, cache.fork(), cache.fork()]
    endings = [(11, 13, 50), (12, 15, 60), (11, 14, 70, 71)]
    for twin, ending in zip(twins, endings, strict=True):
        twin.commit(as_ids(ending))
    for _ in range(2):
        for twin, ending in zip(twins, endings, strict=True):
            close(next_logits(model, twin), reference.logits([*text, *ending])[-1])
            twin.commit(())


def test_equal_prompts_are_read_once(pair: Pair) -> None:
    model, _ = pair
    prompt = Prompt(token_ids=random_ids(10))
    first, second = model.start([prompt, prompt])
    ours, theirs = first.storage.layers[0], second.storage.layers[0]
    assert ours is not theirs and ours.keys is theirs.keys


def test_reuse_of_a_cache(pair: Pair) -> None:
    model, reference = pair
    text = random_ids(40)
    old = begin(model, text)
    tree_logits(model, old, TREE_TOKENS, TREE_PARENTS)
    longer = (*text[:25], *random_ids(30, seed=5))
    [cache] = model.start([Prompt(token_ids=longer)], [old])
    assert cache is old
    close(next_logits(model, cache), reference.logits(longer)[-1])


@pytest.mark.parametrize("chunk", [4, 512])
def test_embeddings_instead_of_ids(pair: Pair, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = pair
    monkeypatch.setattr("outrider.models.caches.prefill.PREFILL_CHUNK", chunk)
    rows = torch.randn(10, model.hidden_size)
    text = random_ids(10)
    rows[-1] = model.embed(text[-1:])[0]
    cache, other = model.start(
        [Prompt(token_ids=text, embeddings=rows), Prompt(token_ids=random_ids(6))]
    )
    answers = model.forward([Segment(c, as_ids([4])) for c in (cache, other)], [as_ids([0])] * 2)
    close(answers[0].logits[0], reference.embedded(torch.cat((rows, model.embed([4]))))[-1])
    close(answers[1].logits[0], reference.logits([*random_ids(6), 4])[-1])


def test_chunked_prefill(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = pair
    monkeypatch.setattr("outrider.models.caches.prefill.PREFILL_CHUNK", 9)
    text = random_ids(70)
    close(next_logits(model, begin(model, text)), reference.logits(text)[-1])


def test_wide_tree_at_the_end_of_the_context(pair: Pair) -> None:
    """More slots than positions: siblings share a position."""
    model, reference = pair
    text = random_ids(255)
    tokens, parents = as_ids(range(8)), np.full(8, -1)
    logits = tree_logits(model, begin(model, text), tokens, parents)
    close(logits, reference.node_logits(text, tokens, parents))


def test_context_is_bounded(pair: Pair) -> None:
    model, _ = pair
    assert model.context_length == 256
    with pytest.raises(ContextError):
        begin(model, random_ids(256))
    cache = begin(model, random_ids(255))
    with pytest.raises(ContextError):
        tree_logits(model, cache, as_ids([1, 2]), as_ids([-1, 0]))


@pytest.mark.parametrize("kind", ["gpt2", "qwen2 window", "neox"])
def test_cache_equals_a_fresh_prefill_after_every_round(kind: str) -> None:
    """I3 in float64, along a random path through random trees."""
    model = TransformersModel(build(*RUNS[kind]).double())
    cache = begin(model, random_ids(11))
    random = np.random.default_rng(0)
    for _ in range(12):
        tokens = as_ids(random.integers(0, 4, 8))
        parents = random.integers(-1, np.maximum(np.arange(8), 1)).clip(max=np.arange(8) - 1)
        tree_logits(model, cache, tokens, parents)
        cache.commit(as_ids(random.integers(0, 4, random.integers(1, 5))))
        assert_equals_fresh_prefill(model, cache, tolerance=1e-10)


@pytest.mark.parametrize("kind", ALSO_RUNS)
def test_other_architectures(kind: str) -> None:
    model = build(*ALSO_RUNS[kind])
    runner, reference = TransformersModel(model), BuiltReference(model)
    text = random_ids(12)
    cache = begin(runner, text)
    logits = tree_logits(runner, cache, TREE_TOKENS, TREE_PARENTS)
    close(logits, reference.node_logits(text, TREE_TOKENS, TREE_PARENTS))
    cache.commit([12, 15, 20, 99])
    close(next_logits(runner, cache), reference.logits([*text, 12, 15, 20, 99])[-1])


@pytest.mark.parametrize("kind", ["gpt2", "mistral window", "qwen2 window"])
def test_drafted_text_is_what_transformers_generates(kind: str) -> None:
    """Through whole rounds, with a draft model that is sometimes right."""
    settings = (RUNS[kind][0], RUNS[kind][1] | {"vocab_size": 40})
    target, near = build(*settings).double(), build(*settings).double()
    with torch.no_grad():
        for weight in near.parameters():
            weight += 0.06 * torch.randn_like(weight)
    prompt = list(random_ids(9, vocab_size=40))
    options = {"do_sample": False, "max_new_tokens": 30, "pad_token_id": 0}
    ids = torch.tensor([prompt])
    expected = target.generate(ids, attention_mask=torch.ones_like(ids), **options)
    strategy = pyramid(TransformersModel(target, name="target"), TransformersModel(near))
    sampler = Sampler(SamplingParams(max_new_tokens=30), prompt_ids=prompt)
    generation = Generation(Request(Prompt(token_ids=tuple(prompt)), sampler))
    for _ in generate(strategy.stage, [generation]):
        pass
    assert generation.output == expected[0, len(prompt) :].tolist()
    assert 0 < generation.counters.accepted < generation.counters.drafted
