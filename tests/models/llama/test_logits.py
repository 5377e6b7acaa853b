"""Every architecture and option gives the logits of `transformers`, to 1e-4 in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.models.llama.decoder import Decoder
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import Reference, all_logits, close, edited, random_ids
from tests.models.setups.runners import CAPS, KINDS, MULTIPLIERS, load, runner_cases

SLIDING = {"use_sliding_window": True, "sliding_window": 6}
WIDE = {"hidden_size": 64, "head_dim": 32, "rms_norm_eps": 1e-5}


def yarn(**more: Any) -> dict[str, Any]:
    original = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    return WIDE | {"rope_parameters": original | {"rope_theta": 10_000.0} | more}


def scaled(kind: str, theta: float = 10_000.0, **more: Any) -> dict[str, Any]:
    return WIDE | {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


LLAMA3 = scaled(
    "llama3",
    theta=500_000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)


def by_layer(**full: Any) -> dict[str, Any]:
    local = {"rope_type": "default", "rope_theta": 50.0}
    parameters = {"full_attention": {"rope_theta": 1e5, **full}, "sliding_attention": local}
    return WIDE | {"rope_parameters": parameters, "sliding_window": 6, "sliding_window_pattern": 2}


def longrope(**more: Any) -> dict[str, Any]:
    """Phi-3: eight pairs rotate, and texts of the model are shorter than its first window."""
    factors = {"short_factor": [1 + i / 4 for i in range(8)], "long_factor": [9.0] * 8}
    parameters = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}
    return WIDE | {
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "original_max_position_embeddings": 256,
        "rope_parameters": parameters | more,
    }


HALF = {"hidden_size": 128, "head_dim": 32}
SCALED_GLOBAL = by_layer(rope_type="linear", factor=8.0)
GEMMA = {"query_pre_attn_scalar": 20, "sliding_window": 6, "hidden_activation": "gelu"}

OPTIONAL = (
    "num_key_value_heads",
    "head_dim",
    "rope_parameters",
    "rms_norm_eps",
    "hidden_act",
    "max_window_layers",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "hidden_activation",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "logits_scaling",
    "no_rope_layers",
    "no_rope_layer_interval",
    "max_position_embeddings",
    "architectures",
)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama attention bias": ("llama", {"attention_bias": True}),
    "llama mlp bias": ("llama", {"mlp_bias": True}),
    "llama all heads": ("llama", {"num_key_value_heads": 4}),
    "llama one key head": ("llama", {"num_key_value_heads": 1}),
    "llama own head_dim": ("llama", {"head_dim": 20}),
    "llama gelu": ("llama", {"hidden_act": "gelu"}),
    "llama gelu tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "llama relu": ("llama", {"hidden_act": "relu"}),
    "llama large eps": ("llama", {"rms_norm_eps": 0.1}),
    "mistral": ("mistral", {}),
    "mistral no window": ("mistral", {"sliding_window": None}),
    "mistral window": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 window": ("qwen2", SLIDING | {"max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "qwen3 bias": ("qwen3", {"attention_bias": True}),
    "qwen3 window": ("qwen3", SLIDING | {"layer_types": ["sliding_attention", "full_attention"]}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "smollm3 window": ("smollm3", SLIDING | {"no_rope_layers": [1, 0]}),
    "gemma2": ("gemma2", CAPS | {"sliding_window": 6}),
    "gemma2 uncapped": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
    ),
    "gemma2 scalar": ("gemma2", GEMMA | {"tie_word_embeddings": True}),
    "gemma3": ("gemma3", {"num_hidden_layers": 7, "sliding_window": 6}),
    "gemma3 pattern": ("gemma3", GEMMA | {"num_hidden_layers": 4, "sliding_window_pattern": 3}),
    "gemma3 capped": ("gemma3", GEMMA | {"final_logit_softcapping": 2.0}),
    "gemma3 layers": (
        "gemma3",
        {"sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "gemma3 rope": ("gemma3", SCALED_GLOBAL),
    "phi3": ("phi3", {"tie_word_embeddings": True}),
    "phi3 window": ("phi3", {"sliding_window": 7}),
    "phi3 partial": ("phi3", {"partial_rotary_factor": 0.5}),
    "phi3 longrope": ("phi3", longrope()),
    "phi3 longrope partial": ("phi3", longrope(partial_rotary_factor=0.5) | HALF),
    "phi3 longrope amplitude": ("phi3", longrope(attention_factor=1.3)),
    "olmo2": ("olmo2", {}),
    "olmo2 bias": ("olmo2", {"attention_bias": True, "num_key_value_heads": 4}),
    "granite": ("granite", MULTIPLIERS),
    "granite bias": ("granite", MULTIPLIERS | {"attention_bias": True, "mlp_bias": True}),
    "glm4": ("glm4", {}),
    "glm4 without bias": ("glm4", {"attention_bias": False, "num_key_value_heads": 1}),
    "glm4 odd pairs": ("glm4", {"head_dim": 20, "partial_rotary_factor": 0.3}),
    "glm4 all pairs": ("glm4", {"partial_rotary_factor": 1.0}),
    "rope theta": ("llama", scaled("default", theta=300.0)),
    "rope linear": ("llama", scaled("linear", factor=4.0)),
    "rope dynamic": ("mistral", scaled("dynamic", factor=2.7)),
    "rope llama3": ("llama", LLAMA3),
    "rope yarn": ("qwen2", yarn()),
    "rope yarn options": ("qwen3", yarn(beta_fast=20.0, beta_slow=2.0, truncate=False)),
    "rope yarn mscale": ("llama", yarn(mscale=0.7, mscale_all_dim=1.1)),
    "rope yarn amplitude": ("llama", yarn(attention_factor=1.3)),
}

TEXT = random_ids(150)
Judged = tuple[Path, torch.Tensor]
"""A checkpoint, and what `transformers` makes of `TEXT`."""


@pytest.fixture(scope="module", params=CASES)
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    kind, overrides = CASES[request.param]
    path = make_checkpoint(tmp_path_factory.mktemp("model"), kind, **overrides)
    return path, Reference(path).logits(TEXT)


@pytest.mark.parametrize("runner", runner_cases(("decoder", "native")))
def test_equals_transformers(judged: Judged, runner: str) -> None:
    path, expected = judged
    logits = all_logits(load(runner, path, torch.float32), TEXT)
    close(logits, expected)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_float64_agrees_with_float32(kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", kind)
    text = random_ids(60)
    double = all_logits(Decoder.load(path, dtype=torch.float64), text)
    assert double.dtype == torch.float64
    close(double.float(), all_logits(Decoder.load(path), text))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3")
    text = random_ids(60)
    half = all_logits(Decoder.load(path, dtype=dtype), text)
    assert half.dtype == dtype
    close(half.float(), all_logits(Decoder.load(path), text), tolerance=0.1)


def test_the_factor_of_embeddings_is_rounded_as_in_training(tmp_path: Path) -> None:
    """In bfloat16 the root of 48 is 6.9375 and not 6.9282."""
    path = make_checkpoint(tmp_path / "model", "gemma3", hidden_size=48)
    theirs: Any = Reference(path, torch.bfloat16).model.get_input_embeddings()
    ids = torch.arange(288)
    ours = Decoder.load(path, dtype=torch.bfloat16).embed(ids.numpy())
    assert torch.equal(ours, theirs(ids))
    exact = Decoder.load(path).embed(ids.numpy())
    assert float((ours.float() / exact).median()) == pytest.approx(6.9375 / 48**0.5, abs=2e-4)


def test_first_spellings_of_longrope(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "phi3", **longrope())
    scaling = {"type": "su", "short_factor": [1 + i / 4 for i in range(8)]}
    scaling["long_factor"] = [9.0] * 8
    old = edited(path, tmp_path / "old", rope_parameters=None, rope_scaling=scaling)
    close(all_logits(Decoder.load(old), TEXT), all_logits(Decoder.load(path), TEXT), 0.0)
    assert Decoder.load(path).info.context_length == 256


@pytest.mark.parametrize("case", ["rope theta", "rope linear", "rope llama3", "rope yarn"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_older_spelling_of_rope(case: str, key: str, tmp_path: Path) -> None:
    """Before version 5: `rope_theta` beside `rope_scaling`, whose kind was once `type`."""
    kind, overrides = CASES[case]
    path = make_checkpoint(tmp_path / "new", kind, **overrides)
    scaling = dict(overrides["rope_parameters"])
    theta, name = scaling.pop("rope_theta"), scaling.pop("rope_type")
    older = {"rope_theta": theta, "rope_scaling": {key: name, **scaling}}
    if name == "default":
        older["rope_scaling"] = None
    old = edited(path, tmp_path / "old", rope_parameters=None, **older)
    text = random_ids(100)
    logits = all_logits(Decoder.load(old), text)
    close(logits, all_logits(Decoder.load(path), text), tolerance=0.0)
    close(logits, Reference(old).logits(text))


def test_original_length_beside_the_rope_parameters(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "new", "llama", **LLAMA3)
    old = edited(path, tmp_path / "old", original_max_position_embeddings=32)
    text = random_ids(100)
    close(all_logits(Decoder.load(old), text), Reference(old).logits(text))


DEFAULT_HEADS = {
    "mistral": (8, 2),
    "qwen3": (32, 128),
    "smollm3": (4, 2),
    "gemma2": (4, 256),
    "gemma3": (4, 256),
    "glm4": (2, 128),
}
"""Key-value heads, and dimensions of a head, that `transformers` assumes."""


@pytest.mark.parametrize("kind", KINDS)
def test_config_that_is_silent(kind: str, tmp_path: Path) -> None:
    """Fields left out take the defaults of `transformers` for that model_type."""
    heads, head_dim = DEFAULT_HEADS.get(kind, (32, 2))
    sizes: dict[str, Any] = {"num_attention_heads": 32, "head_dim": head_dim}
    sizes |= {"hidden_size": 64, "num_key_value_heads": heads, "max_position_embeddings": 64}
    sizes["tie_word_embeddings"] = kind in ("smollm3", "gemma2", "gemma3")
    if kind in ("smollm3", "gemma3"):
        sizes["num_hidden_layers"] = 7
    path = make_checkpoint(tmp_path / "model", kind, **sizes)
    silent = edited(path, tmp_path / "silent", **dict.fromkeys(OPTIONAL))
    text = random_ids(40)
    model = Decoder.load(silent)
    reference = Reference(silent)
    close(all_logits(model, text), reference.logits(text))
    assert model.info.context_length == reference.model.config.max_position_embeddings


def test_head_that_differs_from_a_tied_embedding(tmp_path: Path) -> None:
    """As in `transformers`: told to tie, but given two different matrices, both are used."""
    path = make_checkpoint(tmp_path / "model", "llama")
    told = edited(path, tmp_path / "told", tie_word_embeddings=True)
    text = random_ids(20)
    model = Decoder.load(told)
    close(all_logits(model, text), Reference(told).logits(text))
    assert model.info.num_parameters == Decoder.load(path).info.num_parameters


def test_sharded_checkpoint(tmp_path: Path) -> None:
    one = make_checkpoint(tmp_path / "one", "qwen2")
    many = make_checkpoint(tmp_path / "many", "qwen2", shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 3
    text = random_ids(20)
    close(all_logits(Decoder.load(many), text), all_logits(Decoder.load(one), text), 0.0)
