"""The comparisons of `test_logits` can fail: each mutation moves the logits by > 1e-3."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outrider.core.types import BoolArray, IntArray
from outrider.models.caches.bookkeeping import CacheBook, Feed
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama import attention as decoder_attention
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.families import FAMILIES
from outrider.models.llama.features import Norms, Scales
from outrider.models.llama.weights import Linear
from outrider.protocols import Segment
from tests.models.llama.test_logits import CASES, SCALED_GLOBAL, longrope
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
        assert layer.input_norm is not None
        layer.input_norm.fill_(1.0)


@mutates("smollm3")
def positions_in_every_layer(model: Decoder) -> None:
    for layer in model._layers:
        layer.rotary = True


def one_norm_less(place: str) -> Callable[[Decoder], None]:
    def remove(model: Decoder) -> None:
        for layer in model.weights.layers:
            assert getattr(layer, place) is not None
            setattr(layer, place, None)

    remove.__name__ = f"no_{place}"
    return remove


def with_config(**changes: Any) -> Callable[[Decoder], None]:
    def change(model: Decoder) -> None:
        model.config = replace(model.config, **changes)
        for layer in model._layers:
            layer.config = model.config

    return change


for _case in ("gemma2", "gemma3", "glm4"):
    for _place in ("input_norm", "output_norm", "mlp_norm", "down_norm"):
        MODEL_MUTATIONS[f"{_case} no {_place}"] = (_case, one_norm_less(_place))
for _place in ("output_norm", "down_norm", "qk_norm"):
    MODEL_MUTATIONS[f"olmo2 no {_place}"] = ("olmo2", one_norm_less(_place))
MODEL_MUTATIONS["gemma3 no qk_norm"] = ("gemma3", one_norm_less("qk_norm"))
MODEL_MUTATIONS["norms of single heads"] = ("olmo2", with_config(norms=Norms()))
MODEL_MUTATIONS["embeddings without a factor"] = ("gemma3", with_config(scales=Scales()))


@pytest.mark.parametrize("name", MODEL_MUTATIONS)
def test_wrong_model_is_seen(name: str, tmp_path: Path) -> None:
    case, mutation = MODEL_MUTATIONS[name]
    kind, overrides = CASES[case]
    path = make_checkpoint(tmp_path / "model", kind, **overrides)
    model = Decoder.load(path)
    mutation(model)
    apart(all_logits(model, TEXT), Reference(path).logits(TEXT))


FAMILY_MUTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "halves rotate together": ("glm4", {"interleaved": False}),
    "neighbours rotate together": ("phi3 partial", {"interleaved": True}),
    "all layers have windows": ("gemma3", {"full_every": 100}),
    "windows without a base of their own": ("gemma3", {"local_theta": None}),
}


@pytest.mark.parametrize("name", FAMILY_MUTATIONS)
def test_wrong_row_of_the_table_is_seen(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, changes = FAMILY_MUTATIONS[name]
    kind, overrides = CASES[case]
    path = make_checkpoint(tmp_path / "model", kind, **overrides)
    expected = Reference(path).logits(TEXT)
    config = open_checkpoint(path).config
    known = config["model_type"]
    monkeypatch.setitem(FAMILIES, known, replace(FAMILIES[known], **changes))
    if "local_theta" in changes:
        path = edited(path, tmp_path / "flat", rope_parameters=PLAIN_ROPE)
    if "full_every" in changes:
        path = edited(path, tmp_path / "silent", layer_types=None)
    apart(all_logits(Decoder.load(path), TEXT), expected)


PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
ONE_BASE = {"full_attention": SCALED_GLOBAL["rope_parameters"]["full_attention"]}
UNSCALED = SCALED_GLOBAL["rope_parameters"] | {"full_attention": {"rope_theta": 1e5}}

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
    "other eps": ("llama large eps", {"rms_norm_eps": 1e-6}),
    "no attention cap": ("gemma2", {"attn_logit_softcapping": None}),
    "no logits cap": ("gemma2", {"final_logit_softcapping": None}),
    "other cap": ("gemma2", {"attn_logit_softcapping": 1.6}),
    "no logits cap of Gemma 3": ("gemma3 capped", {"final_logit_softcapping": None}),
    "other query scalar": ("gemma2 scalar", {"query_pre_attn_scalar": 21}),
    "other query scalar of Gemma 3": ("gemma3 pattern", {"query_pre_attn_scalar": 8}),
    "no norm offset": ("gemma3", {"rms_norm_offset": 0.0}),
    "other gelu": ("gemma2", {"hidden_activation": "gelu"}),
    "global layers": ("gemma3", {"layer_types": ["sliding_attention"] * 7}),
    "local layers": ("gemma3", {"layer_types": ["full_attention"] * 7}),
    "window of Gemma": ("gemma3", {"sliding_window": 7}),
    "one base": ("gemma3 rope", {"rope_parameters": ONE_BASE}),
    "no scaling of global layers": ("gemma3 rope", {"rope_parameters": UNSCALED}),
    "all pairs": ("phi3 partial", {"rope_parameters": PLAIN_ROPE | {"partial_rotary_factor": 1.0}}),
    "fewer pairs": ("glm4", {"rope_parameters": PLAIN_ROPE | {"partial_rotary_factor": 0.25}}),
    "window of Phi": ("phi3 window", {"sliding_window": None}),
    "no longrope": ("phi3 longrope", {"rope_parameters": PLAIN_ROPE}),
    "no amplitude": ("phi3 longrope", longrope(attention_factor=1.0)),
    "no embedding multiplier": ("granite", {"embedding_multiplier": 1.0}),
    "no residual multiplier": ("granite", {"residual_multiplier": 1.0}),
    "no attention multiplier": ("granite", {"attention_multiplier": 8**-0.5}),
    "no logits multiplier": ("granite", {"logits_scaling": 1.0}),
    "eps of GLM": ("glm4", {"rms_norm_eps": 1e-2}),
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
