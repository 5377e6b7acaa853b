"""Differentiable cache augmentation (arXiv 2412.17747): latents behind a prompt, in the cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider import kernels
from outrider.acceptance import Match
from outrider.core.errors import ContextError, StrategyError
from outrider.core.types import Prompt, as_ids
from outrider.decoding import Generation, generate
from outrider.drafters import Lookup, TokenRecycling
from outrider.drafters.layers.skip import EvenSkip
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cuda.decoder import StaticDecoder
from outrider.models.latents.augmented import AugmentedModel
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.lora import Adapter, with_adapter
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Cache, Request, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from outrider.training.core.lora import LayerUpdates, write_adapter
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("augmented"), pytest.mark.usefixtures("unchecked")]

IDS = tuple((7 * i * i + 3) % 280 for i in range(30))
LATENTS = 5
KINDS = ("decoder", "native", "static")


def adapted(source: Path, folder: Path) -> Path:
    """A random adapter."""
    target = Decoder.load(source)
    updates = LayerUpdates(target.weights.layers, 3, 6.0, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in updates.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    write_adapter(folder, dict(updates.named(target.config)), "a", 3, 6.0)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """For each runner the frozen model and the one with the adapter."""
    folder = tmp_path_factory.mktemp("augmented")
    kinds = ["sliding_attention", "full_attention"] * 2
    source = make_checkpoint(
        folder / "small", "gemma3", num_hidden_layers=4, sliding_window=8, layer_types=kinds
    )
    changed = with_adapter(open_checkpoint(source), Adapter.load(adapted(source, folder / "a")))
    found: dict[str, tuple[Any, Any]] = {"decoder": (Decoder.load(source), Decoder.load(changed))}
    found["static"] = (StaticDecoder.load(source), StaticDecoder.load(changed))
    if kernels.available():
        exact: Any = {"dtype": torch.float32, "threads": 1}
        models = (NativeDecoder.load(source, **exact), NativeDecoder.load(changed, **exact))
        found["native"] = models
    return found


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, pairs: dict[str, Any]) -> tuple[Any, Any]:
    if request.param not in pairs:
        pytest.skip(kernels.reason_missing())
    return pairs[request.param]


def augmented(pair: tuple[Any, Any], count: int = LATENTS) -> AugmentedModel:
    base, coprocessor = pair
    torch.manual_seed(2)
    soft = torch.randn(count, base.width) * 0.5
    return AugmentedModel(base, coprocessor, soft, 0.3)


def begun(model: Any, ids: Sequence[int], reuse: Cache | None = None) -> DecoderCache:
    [cache] = model.start([Prompt(token_ids=tuple(ids))], [reuse])
    return cache


def check_same(model: Any, one: torch.Tensor, other: torch.Tensor) -> None:
    """Bit for bit, except where PyTorch rounds a row differently beside others."""
    if model.info.batch_invariant:
        assert torch.equal(one, other)
    else:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def rows_after(model: Any, cache: Cache, ids: Sequence[int]) -> torch.Tensor:
    segment = Segment(cache, as_ids(ids))
    return model.forward([segment], [as_ids(range(-1, len(ids)))])[0].logits


def latents_by_hand(model: AugmentedModel, pair: tuple[Any, Any], ids: Sequence[int]) -> Any:
    """The coprocessor reads soft tokens over a cache of its own, into which keys and values of the
    frozen model are copied."""
    base, coprocessor = pair
    frozen, own = begun(base, [*ids, 0]), begun(coprocessor, [*ids, 0])
    with torch.inference_mode():
        own.storage.copy_rows(frozen.storage, len(ids))
    own._text.pop()  # no token is pending: the soft tokens come next
    segment = Segment(own, as_ids([-1 - i for i in range(len(model.soft))]), prompts=model.soft)
    [rows] = coprocessor.forward([segment], [as_ids(range(len(model.soft)))])
    return rows.hidden * model.scale


def test_without_latents_it_is_the_base_bit_for_bit(pair: tuple[Any, Any]) -> None:
    model, base = augmented(pair, 0), pair[0]
    own, theirs = begun(model, IDS[:12]), begun(base, IDS[:12])
    assert torch.equal(rows_after(model, own, IDS[12:]), rows_after(base, theirs, IDS[12:]))
    assert model.info.exactness == base.info.exactness and not model.info.whole_prompts
    assert model.info.context_length == base.info.context_length


def test_latents_are_the_last_states_of_the_adapted_model_over_the_frozen_cache(
    pair: tuple[Any, Any],
) -> None:
    """And they enter the frozen model as embeddings between the prompt and its last token."""
    model, base = augmented(pair), pair[0]
    latents = latents_by_hand(model, pair, IDS[:11])
    embeddings = torch.cat((base.embed(IDS[:11]), latents, base.embed(IDS[11:12])))
    prompt = Prompt(token_ids=(*IDS[:11], *[0] * LATENTS, IDS[11]), embeddings=embeddings)
    [by_hand] = base.start([prompt])
    wanted = rows_after(base, by_hand, IDS[12:])
    found = rows_after(model, begun(model, IDS[:12]), IDS[12:])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    plain = rows_after(base, begun(base, IDS[:12]), IDS[12:])
    assert (found - plain).abs().max() > 1e-2


def test_position_ids_continue_after_the_latents(pair: tuple[Any, Any]) -> None:
    model = augmented(pair)
    cache = begun(model, IDS[:12])
    assert cache.length == 11 + LATENTS and list(cache.pending) == [IDS[11]]
    assert cache.slot_positions(12 + LATENTS).tolist() == list(range(12 + LATENTS))
    assert cache.remaining == pair[0].info.context_length - 12 - LATENTS
    gaps = Prompt(token_ids=IDS[:4], positions=(0, 3, 4, 9))
    [cache] = model.start([gaps])
    placed = [0, 3, 4, *range(5, 5 + LATENTS), 9 + LATENTS]
    assert cache.slot_positions(4 + LATENTS).tolist() == placed


def test_later_tokens_never_change_the_latents(pair: tuple[Any, Any]) -> None:
    """Neither the last token of the prompt nor what follows it."""
    model = augmented(pair)
    one, other = begun(model, IDS[:12]), begun(model, (*IDS[:11], 77))
    keys, values = one.keys.clone(), one.values.clone()
    assert torch.equal(keys, other.keys) and torch.equal(values, other.values)
    rows_after(model, one, IDS[12:20])
    one.commit(IDS[12:20])
    assert torch.equal(one.keys[:, :, : keys.shape[2]], keys)
    assert torch.equal(one.values[:, :, : keys.shape[2]], values)
    third = begun(model, (*IDS[:10], 77, IDS[11]))
    assert not torch.equal(third.keys[:, :, 11:], keys[:, :, 11:])


def test_removing_the_latents_restores_the_cache(pair: tuple[Any, Any]) -> None:
    """After `truncate`, rows and results equal those of a fresh prefill by the base."""
    model, base = augmented(pair), pair[0]
    cache = begun(model, IDS[:12])
    rows_after(model, cache, IDS[12:16])
    cache.commit(IDS[12:16])
    cache.truncate(11)
    fresh = begun(base, IDS[:11])
    assert list(cache.text) == list(fresh.text) and cache.sound is None
    assert torch.equal(cache.keys, fresh.keys) and torch.equal(cache.values, fresh.values)
    found = rows_after(base, cache, IDS[11:])
    assert torch.equal(found, rows_after(base, fresh, IDS[11:]))


@pytest.mark.parametrize(
    "longer",
    [IDS[:20], (*IDS[:6], 5, 6), IDS[:12], (9, *IDS[:5]), (*IDS[:11], 0, 0, 0, 0, 9)],
    ids=["longer", "other end", "the same", "another", "the filler itself"],
)
def test_a_later_prompt_reuses_only_rows_before_the_latents(
    pair: tuple[Any, Any], longer: tuple[int, ...]
) -> None:
    model = augmented(pair)
    old = begun(model, IDS[:12])
    rows_after(model, old, IDS[12:15])
    old.commit(IDS[12:15])
    shared = 11 if longer[:11] == IDS[:11] else 6 if longer[:6] == IDS[:6] else 0
    before = old.keys[:, :, : max(shared - 1, 0)].clone()  # the last token is read again
    again, fresh = begun(model, longer, old), begun(model, longer)
    assert (again is old) == (shared > 0)  # the prefix is not read again
    assert torch.equal(again.keys[:, :, : before.shape[2]], before)
    assert list(again.text) == list(fresh.text)
    check_same(model, again.keys, fresh.keys)
    check_same(model, rows_after(model, again, (4, 5)), rows_after(model, fresh, (4, 5)))


def test_prompts_that_are_read_together(pair: tuple[Any, Any]) -> None:
    """Each equals itself alone; the same prompt twice is augmented once, and forks are apart."""
    model = augmented(pair)
    twice = Prompt(token_ids=IDS[:9])
    prompts = [Prompt(token_ids=IDS[:1]), twice, Prompt(token_ids=IDS[3:20]), twice]
    caches = model.start(prompts)
    assert len({id(cache) for cache in caches}) == 4
    for cache, prompt in zip(caches, prompts, strict=True):
        alone = begun(model, prompt.token_ids)
        check_same(model, rows_after(model, cache, (7, 8)), rows_after(model, alone, (7, 8)))
        cache.commit((7,))


DRAFTERS: dict[str, tuple[Any, Any]] = {
    "lookup": (lambda base: Lookup(min_ngram=1), FixedLength(4)),
    "tree": (lambda base: TokenRecycling(), FixedTree(depth=4, nodes=12)),
    "layers": (lambda base: EvenSkip(model=base), FixedLength(3)),
}


def written(model: Any, drafter: Any = None, policy: Any = None) -> list[tuple[int, ...]]:
    more: dict[str, Any] = {}
    if drafter is not None:
        more = {"drafter": drafter, "rule": Match(), "policy": policy}
    stage = Strategy(target=model, **more).stage
    found: list[Generation] = []
    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, max_new_tokens=24, seed=1)
        for ids in (IDS[:12], (1, 2, 3, 1, 2, 3, 1, 2)):
            request = Request(Prompt(token_ids=ids), Sampler(params, prompt_ids=ids, end_ids=()))
            found.append(Generation(request))
    for _ in generate(stage, found):
        pass
    if drafter is not None:
        assert sum(one.counters.drafted for one in found) > 0
    return [tuple(one.output) for one in found]


@pytest.mark.parametrize("name", DRAFTERS)
def test_drafted_text_equals_undrafted_text(pair: tuple[Any, Any], name: str) -> None:
    model = augmented(pair)
    make, policy = DRAFTERS[name]
    undrafted = written(model)
    assert undrafted != written(pair[0])
    assert written(model, make(model), policy) == undrafted


def test_it_declares_what_it_changes(pair: tuple[Any, Any]) -> None:
    model, base = augmented(pair), pair[0]
    assert model.info.exactness == "lossy" and model.info.whole_prompts
    assert not model.info.reads_in_parts(Prompt(token_ids=IDS))
    assert model.info.context_length == base.info.context_length - LATENTS
    other = AugmentedModel(base, pair[1], model.soft * 2, 0.3)
    assert len({one.info.fingerprint for one in (model, other, base)}) == 3
    assert model.segmented is None and model.layered is base and model.selector is None


def test_what_is_refused(pair: tuple[Any, Any], tmp_path: Path) -> None:
    base, coprocessor = pair
    soft = torch.randn(LATENTS, base.width)
    with pytest.raises(StrategyError, match="own runners"):
        AugmentedModel(TabularModel(torch.zeros(4, 4)), coprocessor, soft)
    with pytest.raises(StrategyError, match="own runners"):
        AugmentedModel(base, TabularModel(torch.zeros(4, 4)), soft)
    with pytest.raises(StrategyError, match="numbers each"):
        AugmentedModel(base, coprocessor, soft[:, 1:])
    with pytest.raises(ContextError, match="leave no place"):
        AugmentedModel(base, coprocessor, soft[:1].expand(base.info.context_length, -1))
    model = augmented(pair)
    longest = (IDS * 99)[: model.info.context_length]
    with pytest.raises(ContextError, match="one of them for the answer"):
        begun(model, longest)
    cache = begun(model, longest[1:])
    assert cache.remaining == 1
    other = Decoder.load(make_checkpoint(tmp_path / "other", "llama"))
    with pytest.raises(StrategyError, match="shapes differ"):
        other.reading(base)
    with pytest.raises(StrategyError, match="another model has filled"):
        coprocessor.borrow(begun(base, IDS))  # it is not changed; only its copy reads these
