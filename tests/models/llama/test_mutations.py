"""The comparisons of `test_logits` can fail: each mutation moves the logits by > 1e-3."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from outrider.core.types import BoolArray, IntArray
from outrider.models.caches.bookkeeping import CacheBook, Feed
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.llama import attention as decoder_attention
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.experts import Mixture
from outrider.models.llama.weights import Linear
from outrider.protocols import Segment
from tests.models.llama.test_logits import CASES
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import (
    Reference,
    all_logits,
    apart,
    begin,
    edited,
    random_ids,
    tree_logits,
)

TEXT = random_ids(100)

MODEL_MUTATIONS: dict[str, tuple[str, Callable[[Decoder], None]]] = {}


def mutates(case: str) -> Callable[[Callable[[Decoder], None]], Callable[[Decoder], None]]:
    def note(mutation: Callable[[Decoder], None]) -> Callable[[Decoder], None]:
        MODEL_MUTATIONS[mutation.__name__] = (case, mutation)
        return mutation

    return note


@mutates("qwen3")
def no_qk_norm(model: Decoder) -> None:
    for layer in model.weights.layers:
        layer.qk_norm = None


@mutates("qwen3")
def swapped_qk_norm(model: Decoder) -> None:
    for layer in model.weights.layers:
        assert layer.qk_norm is not None
        layer.qk_norm = layer.qk_norm.flip(0)


@mutates("qwen2")
def no_qkv_bias(model: Decoder) -> None:
    for layer in model.weights.layers:
        assert isinstance(layer.qkv, Linear)
        layer.qkv = Linear(layer.qkv.weight)


@mutates("llama attention bias")
def no_output_bias(model: Decoder) -> None:
    for layer in model.weights.layers:
        assert isinstance(layer.output, Linear)
        layer.output = Linear(layer.output.weight)


@mutates("llama mlp bias")
def no_gate_up_bias(model: Decoder) -> None:
    for layer in model.weights.layers:
        assert isinstance(layer.gate_up, Linear)
        layer.gate_up = Linear(layer.gate_up.weight)


@mutates("llama mlp bias")
def no_down_bias(model: Decoder) -> None:
    for layer in model.weights.layers:
        assert isinstance(layer.down, Linear)
        layer.down = Linear(layer.down.weight)


@mutates("llama")
def plain_norms(model: Decoder) -> None:
    for layer in model.weights.layers:
        layer.input_norm.fill_(1.0)


@mutates("smollm3")
def positions_in_every_layer(model: Decoder) -> None:
    for layer in model._layers:
        layer.rotary = True


def experts_of(model: Decoder) -> list[Mixture]:
    return [layer.experts for layer in model.weights.layers if layer.experts is not None]


@mutates("mixtral")
def no_normalization(model: Decoder) -> None:
    for layer in experts_of(model):
        layer.normalized = False


@mutates("qwen3_moe plain sum")
def normalization(model: Decoder) -> None:
    for layer in experts_of(model):
        layer.normalized = True


@mutates("qwen3_moe")
def one_expert_less(model: Decoder) -> None:
    for layer in experts_of(model):
        layer.chosen -= 1


@mutates("qwen3_moe")
def one_expert_more(model: Decoder) -> None:
    for layer in experts_of(model):
        layer.chosen += 1


@mutates("mixtral")
def swapped_experts(model: Decoder) -> None:
    for layer in experts_of(model):
        layer.experts = layer.experts[::-1]


@mutates("mixtral")
def swapped_gate_and_up(model: Decoder) -> None:
    for layer in experts_of(model):
        for gate_up, _ in layer.experts:
            assert isinstance(gate_up, Linear)
            gate_up.weight.copy_(torch.cat(gate_up.weight.chunk(2)[::-1]))


class Reversed(Mixture):
    """The most probable expert gets the weight of the least probable one."""

    def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = super().route(x)
        return weights.flip(-1), chosen


@mutates("qwen3_moe")
def swapped_weights(model: Decoder) -> None:
    for layer in model.weights.layers:
        if (known := layer.experts) is not None:
            layer.experts = Reversed(
                router=known.router,
                experts=known.experts,
                chosen=known.chosen,
                normalized=known.normalized,
            )


@mutates("qwen3_moe dense")
def experts_left_out(model: Decoder) -> None:
    for layer in model._layers:
        layer.feeds = layer.weights.experts is None


@pytest.mark.parametrize("name", MODEL_MUTATIONS)
def test_wrong_model_is_seen(name: str, tmp_path: Path) -> None:
    case, mutation = MODEL_MUTATIONS[name]
    kind, overrides = CASES[case]
    path = make_checkpoint(tmp_path / "model", kind, **overrides)
    model = Decoder.load(path)
    mutation(model)
    apart(all_logits(model, TEXT), Reference(path).logits(TEXT))


PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}

CONFIG_MUTATIONS = {
    "theta": ("llama", {"rope_parameters": PLAIN_ROPE | {"rope_theta": 20_000.0}}),
    "no linear": ("rope linear", {"rope_parameters": PLAIN_ROPE}),
    "no llama3": ("rope llama3", {"rope_parameters": PLAIN_ROPE | {"rope_theta": 500_000.0}}),
    "no yarn": ("rope yarn", {"rope_parameters": PLAIN_ROPE}),
    "no yarn amplitude": ("rope yarn amplitude", {"rope_parameters": PLAIN_ROPE}),
    "no window": ("mistral window", {"sliding_window": 4096}),
    "window of one more": ("mistral window", {"sliding_window": 8}),
    "window everywhere": ("qwen2 window", {"layer_types": ["sliding_attention"] * 2}),
    "other activation": ("llama", {"hidden_act": "gelu"}),
    "other router": ("qwen3_moe", {"norm_topk_prob": False}),
    "other number of experts": ("qwen3_moe", {"num_experts_per_tok": 2}),
    "other eps": ("llama large eps", {"rms_norm_eps": 1e-6}),
}


@pytest.mark.parametrize("name", CONFIG_MUTATIONS)
def test_wrong_config_is_seen(name: str, tmp_path: Path) -> None:
    case, changes = CONFIG_MUTATIONS[name]
    kind, overrides = CASES[case]
    path = make_checkpoint(tmp_path / "model", kind, **overrides)
    wrong = Decoder.load(edited(path, tmp_path / "wrong", **changes))
    apart(all_logits(wrong, TEXT), Reference(path).logits(TEXT))


def blind_to_trees(feed: Feed, _cache: DecoderCache, _window: int | None) -> BoolArray:
    slots = np.arange(feed.end)
    return slots[None] <= slots[feed.start :, None]


def late_positions(book: CacheBook, segment: Segment, want: IntArray) -> Feed:
    plan = _feed(book, segment, want)
    return replace(plan, positions=plan.positions + (plan.positions >= plan.base))


def slots_for_positions(cache: DecoderCache, end: int) -> IntArray:
    return np.arange(end)


_feed = CacheBook.feed


@pytest.mark.parametrize(
    ("owner", "attribute", "mutation"),
    [
        (decoder_attention, "visible", blind_to_trees),
        (CacheBook, "feed", late_positions),
        (DecoderCache, "slot_positions", slots_for_positions),
    ],
)
def test_wrong_tree_is_seen(
    owner: object,
    attribute: str,
    mutation: Callable[..., object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = make_checkpoint(tmp_path / "model", "mistral", sliding_window=2)
    model, text = Decoder.load(path), TEXT[:12]
    cache = begin(model, text)
    monkeypatch.setattr(owner, attribute, mutation)
    logits = tree_logits(model, cache, TREE_TOKENS, TREE_PARENTS)
    apart(logits, Reference(path).node_logits(text, TREE_TOKENS, TREE_PARENTS))
