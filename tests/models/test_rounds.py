"""Chains, trees, ragged batches, rollbacks and forks give what plain `transformers` passes give.

One suite for every runner. What only runners of checkpoints can do is in
`test_rounds_checkpoints.py`.
"""

import numpy as np
import pytest
import torch

from outrider.core.errors import ContextError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.protocols import Segment
from tests.models.setups.built import RUNS
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS
from tests.models.setups.pairs import Pair, Pairs
from tests.models.setups.rearranging import stored
from tests.models.setups.reference import begin, close, next_logits, random_ids, tree_logits
from tests.models.setups.runners import KINDS, LIKE_LLAMA, OTHERS, pair_cases

CASES = (
    pair_cases(KINDS, ("decoder", "native"))
    + pair_cases(LIKE_LLAMA, ("static",))
    + pair_cases(OTHERS, ("static",), slow=True)
    + pair_cases(RUNS, ("transformers",))
)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, pairs: Pairs) -> Pair:
    return pairs.of(*request.param)


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


def test_tree(pair: Pair) -> None:
    model, reference = pair
    text = random_ids(12)
    logits = tree_logits(model, begin(model, text), TREE_TOKENS, TREE_PARENTS)
    close(logits, reference.node_logits(text, TREE_TOKENS, TREE_PARENTS))


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
    model, reference = pair
    text = random_ids(8)
    whole = tree_logits(model, begin(model, text), TREE_TOKENS, TREE_PARENTS)
    want = as_ids([7, -1, 3, 7])
    segment = Segment(begin(model, text), TREE_TOKENS, TREE_PARENTS)
    [rows] = model.forward([segment], [want])
    close(rows.logits, whole[want + 1], 1e-5)
    assert rows.hidden is not None
    assert rows.hidden.shape == (4, reference.model.config.hidden_size)
    close(reference.head(rows.hidden), rows.logits, 1e-5)


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


def test_nothing_to_do(pair: Pair) -> None:
    model, _ = pair
    assert model.forward([], []) == []
    cache = begin(model, random_ids(3))
    next_logits(model, cache)
    [rows] = model.forward([Segment(cache, NO_IDS)], [NO_IDS])
    assert rows.logits.shape == (0, model.info.vocab_size)


def test_two_segments_of_one_cache(pair: Pair) -> None:
    model, reference = pair
    text = random_ids(126)
    cache = begin(model, text)
    pieces = [Segment(cache, as_ids([3, 4])), Segment(cache, as_ids([5, 6]))]
    rows = model.forward(pieces, [as_ids([1]), as_ids([3])])
    expected = reference.logits([*text, 3, 4, 5, 6])
    close(rows[0].logits, expected[-3][None])
    close(rows[1].logits, expected[-1][None])


@pytest.mark.parametrize(
    "emitted",
    [
        (11, 13, 16, 19, 99),  # nodes 0, 2, 5, 8: a path that is not contiguous
        (11, 13, 16, 19, 21, 22, 23, 99),  # beyond the windows
        (12, 15, 20, 99),  # nodes 1, 4, 9
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


def share_rows(first: object, second: object) -> bool:
    """Whether two caches hold the same memory: one storage, or storages of the same tensors."""
    ours, theirs = (getattr(cache, "storage", None) for cache in (first, second))
    layers = [getattr(storage, "layers", None) for storage in (ours, theirs)]
    if layers[0] is None or layers[1] is None:
        return ours is theirs
    pairs = list(zip(layers[0], layers[1], strict=True))
    return all(a is not b and a.keys is b.keys and a.values is b.values for a, b in pairs)


def test_equal_prompts_are_read_once(pair: Pair) -> None:
    model, reference = pair
    prompt = Prompt(token_ids=random_ids(10))
    first, second = model.start([prompt, prompt])
    assert share_rows(first, second)
    first.commit([1])
    second.commit([2])
    rows = model.forward([Segment(first, NO_IDS), Segment(second, NO_IDS)], [as_ids([-1])] * 2)
    for row, token in zip(rows, (1, 2), strict=True):
        close(row.logits[0], reference.logits([*prompt.token_ids, token])[-1])


def test_chunked_prefill(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = pair
    text = random_ids(70)
    monkeypatch.setattr("outrider.models.caches.prefill.PREFILL_CHUNK", 9)
    chunked = begin(model, text)
    monkeypatch.setattr("outrider.models.caches.prefill.PREFILL_CHUNK", 1000)
    close(stored(chunked), stored(begin(model, text)), 1e-5)
    close(next_logits(model, chunked), reference.logits(text)[-1])


def test_reuse_of_a_cache(pair: Pair) -> None:
    model, reference = pair
    text, other = random_ids(40), random_ids(30, seed=5)
    old = begin(model, text)
    tree_logits(model, old, TREE_TOKENS, TREE_PARENTS)
    longer = (*text[:25], *other)
    [cache] = model.start([Prompt(token_ids=longer)], [old])
    assert cache is old
    close(next_logits(model, cache), reference.logits(longer)[-1])


@pytest.mark.parametrize("chunk", [4, 512])
def test_embeddings_instead_of_ids(pair: Pair, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = pair
    monkeypatch.setattr("outrider.models.caches.prefill.PREFILL_CHUNK", chunk)
    text = random_ids(10)
    rows = torch.randn(10, 32, generator=torch.Generator().manual_seed(1))
    rows[-1] = model.embed(text[-1:])[0]
    plain = Prompt(token_ids=random_ids(6))
    cache, other = model.start([Prompt(token_ids=text, embeddings=rows), plain])
    answers = model.forward([Segment(c, as_ids([4])) for c in (cache, other)], [as_ids([0])] * 2)
    expected = reference.embedded(torch.cat((rows, model.embed([4]))))[-1]
    close(answers[0].logits[0], expected)
    close(answers[1].logits[0], reference.logits([*plain.token_ids, 4])[-1])


def test_wide_tree_at_the_end_of_the_context(pair: Pair) -> None:
    """More slots than positions: siblings share a position."""
    model, reference = pair
    text = random_ids(255)
    tokens, parents = as_ids(range(20)), np.full(20, -1)
    logits = tree_logits(model, begin(model, text), tokens, parents)
    close(logits, reference.node_logits(text, tokens, parents))


def test_context_is_bounded(pair: Pair) -> None:
    model, _ = pair
    assert model.info.context_length == 256
    with pytest.raises(ContextError):
        begin(model, random_ids(256))
    cache = begin(model, random_ids(255))
    with pytest.raises(ContextError):
        tree_logits(model, cache, as_ids([1, 2]), as_ids([-1, 0]))
