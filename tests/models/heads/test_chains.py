"""Chains that compiled code writes in one call are those of a loop of forwards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.types import NO_IDS, as_ids
from outrider.models.heads.cache import Following
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.heads.setups import Rig, head_cases, make_rig, make_target, random_text

NAMES = ("hinted", "eagle3", "eagle3-normed", "mtp", "eagle1", "fspad")
BANNED = tuple(range(0, 48, 3))
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "t0.7": {"temperature": 0.7},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "top_k": {"temperature": 1.2, "top_k": 3},
    "min_p": {"temperature": 1.0, "min_p": 0.1},
    "banned": {"temperature": 0.9, "banned_tokens": BANNED},
    "banned_greedy": {"banned_tokens": BANNED},
}
TEXTS = [random_text(count, seed) for seed, count in enumerate((2, 5, 17, 24, 31))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module", params=head_cases(["native"], NAMES))
def rig(request: Any, folder: Path) -> Rig:
    return make_rig(folder, *request.param)


def written(
    rig: Rig, cache: Following, sampler: Sampler, depth: int, before: Sequence[int] = (), floor=0.0
) -> list[int]:
    asked = [ChainRequest(Segment(cache, NO_IDS), sampler, before, depth)]
    assert rig.head.chain_decoder is not None
    [tokens] = rig.head.chain_decoder.write_chains(asked, floor) or [None]
    assert tokens is not None
    return tokens.tolist()


def looped(
    rig: Rig, cache: Following, sampler: Sampler, depth: int, before: Sequence[int] = (), floor=0.0
) -> list[int]:
    """The same by forwards of one token each."""
    tokens: list[int] = []
    temperature = sampler.params.temperature or 1.0
    while len(tokens) < depth:
        segment = Segment(cache, as_ids(tokens[-1:]))
        [rows] = rig.head.forward([segment], [as_ids([cache.num_speculative if tokens else -1])])
        logits = rows.logits[0]
        tokens.append(sampler.choose(logits, [*before, *tokens]))
        if tokens[-1] in sampler.end_ids:
            break
        if float((logits / temperature).softmax(-1).max()) < floor:
            break
    return tokens


def both(rig: Rig, text: Sequence[int], depth: int = 6, floor=0.0, end_ids=(), **options: Any):
    """A chain by either way, after a text that has 3 generated tokens."""
    sampler = Sampler(SamplingParams(seed=4, **options), end_ids=end_ids)
    ways = (written, looped)
    return [way(rig, rig.follows(text), sampler, depth, text[-3:], floor) for way in ways]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_chains_equal_a_loop_of_forwards(rig: Rig, sampling: str) -> None:
    chains: set[tuple[int, ...]] = set()
    for text in TEXTS:
        fast, slow = both(rig, text, **SAMPLINGS[sampling])
        assert fast == slow and len(fast) == 6
        chains.add(tuple(fast))
        assert not set(fast) & set(SAMPLINGS[sampling].get("banned_tokens", ()))
    assert len(chains) == len(TEXTS)


@pytest.mark.parametrize("floor", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_an_unsure_token_ends_a_chain(rig: Rig, floor: float, temperature: float) -> None:
    lengths = set()
    for text in TEXTS:
        fast, slow = both(rig, text, floor=floor, temperature=temperature)
        assert fast == slow
        lengths.add(len(fast))
    if floor == 0.3:
        assert len(lengths) > 1


def test_an_end_token_ends_a_chain(rig: Rig) -> None:
    for text in TEXTS:
        whole, _ = both(rig, text, temperature=0.7)
        end = whole[2]
        fast, slow = both(rig, text, end_ids=(end,), temperature=0.7)
        assert fast == slow == whole[: whole.index(end) + 1]


def test_the_window_cuts_a_chain(rig: Rig) -> None:
    long = random_text(64)
    for count in (60, 62, 63):
        cache = rig.follows(long[:count])
        sampler = Sampler(SamplingParams(seed=4))
        # the last row lies at place 63; the token that it drafts is not read
        assert len(written(rig, cache, sampler, 20)) == 64 - (count - 2)


def test_a_chain_leaves_no_rows_behind(rig: Rig) -> None:
    text = TEXTS[3]
    cache, sampler = rig.follows(text), Sampler(SamplingParams(seed=4))
    first = written(rig, cache, sampler, 6)
    assert cache.num_speculative == 0
    cache.commit(())
    assert written(rig, cache, sampler, 6) == first
    cache.commit(())
    assert torch.equal(rig.rows(cache, (3, 4)), rig.rows(rig.follows(text), (3, 4)))


def test_forwards_go_on_from_a_chain(rig: Rig) -> None:
    """The output of the last row of the text is known after a chain."""
    cache, other = rig.follows(TEXTS[3]), rig.follows(TEXTS[3])
    written(rig, cache, Sampler(SamplingParams(seed=4)), 4)
    rig.rows(other)
    assert torch.equal(rig.rows(cache, (3, 4)), rig.rows(other, (3, 4)))


def test_many_chains_at_once(rig: Rig) -> None:
    samplers = [Sampler(SamplingParams(seed=n, temperature=0.5 * n)) for n in range(5)]
    asked = [
        ChainRequest(Segment(rig.follows(text), NO_IDS), sampler, (), depth)
        for text, sampler, depth in zip(TEXTS, samplers, (3, 1, 0, 5, 2), strict=True)
    ]
    assert rig.head.chain_decoder is not None
    together = rig.head.chain_decoder.write_chains(asked) or []
    for text, sampler, chain, one in zip(TEXTS, samplers, asked, together, strict=True):
        assert one.tolist() == looped(rig, rig.follows(text), sampler, chain.depth)


def test_what_a_chain_cannot_follow_is_left_to_forwards(rig: Rig) -> None:
    """Tokens of a tail, and options that compiled code does not have: nothing is changed."""
    cache = rig.follows(TEXTS[3])
    decoder = rig.head.chain_decoder
    assert decoder is not None
    plain, odd = (Sampler(SamplingParams(seed=4, repetition_penalty=p)) for p in (1.0, 1.3))
    good = ChainRequest(Segment(rig.follows(TEXTS[2]), NO_IDS), plain, (), 3)
    for segment, sampler in ((Segment(cache, as_ids([3])), plain), (Segment(cache, NO_IDS), odd)):
        assert decoder.write_chains([good, ChainRequest(segment, sampler, (), 3)]) is None
        assert not cache.fed and not good.segment.cache.fed


def test_unusable_numbers_end_a_chain(folder: Path) -> None:
    for name in NAMES:
        sound = make_rig(folder, name, "native")
        last = "norm.weight" if "norm.weight" in sound.tensors else "layers.0.mlp.down_proj.weight"
        broken = sound.tensors[last].clone()
        broken[3] = torch.nan
        rig = make_rig(folder, name, "native", **{last: broken})
        assert written(rig, rig.follows(TEXTS[3]), Sampler(SamplingParams(seed=4)), 5) == []


@pytest.mark.method("hinted")
def test_hints_outside_the_draft_vocabulary_are_drafted(folder: Path) -> None:
    """A head that copies its hint: the chain follows a text of tokens which it does not know."""
    plain = make_rig(folder, "hinted", "torch")
    ids = set(plain.tensors["ids"].tolist())
    others = [token for token in range(48) if token not in ids]
    embedded = plain.module.normed_embedding(torch.tensor(others))
    copies = (torch.linalg.pinv(embedded) @ plain.teacher.lm_head[others]).T.contiguous()
    silent = ("fc", "recur", "token", "layers.0.self_attn.o_proj", "layers.0.mlp.down_proj")
    changes = {f"{name}.weight": 0 * plain.tensors[f"{name}.weight"] for name in silent}
    changes |= {"hint.weight": copies, "norm.weight": torch.ones(32), "levels": torch.zeros(4, 32)}
    rig = make_rig(folder, "hinted", "native", **changes)
    texts = [tuple(others[:6] * 3), tuple(others[4:9] * 4)]
    seen = 0
    for text in texts:
        for options in ({}, {"temperature": 1.5}):
            fast, slow = both(rig, text, depth=8, **options)
            assert fast == slow
            seen += sum(token not in ids for token in fast)
    assert seen >= 3


def test_a_compiled_chain_needs_kernels_only(folder: Path) -> None:
    assert make_rig(folder, "hinted", "torch").head.chain_decoder is None
