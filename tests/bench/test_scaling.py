"""Cost-scaled models: the small model's outputs, the large one's size."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.bench.scaling.plan import make_plan
from outrider.bench.scaling.scale import cost_scale, cost_scaled_label, scaled_decoder
from outrider.core.errors import CheckpointError, OptionError
from outrider.models.checkpoints.checkpoint import load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from tests.matrix import matrix
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import (
    Reference,
    all_logits,
    begin,
    close,
    edited,
    next_logits,
    random_ids,
)
from tests.models.setups.runners import KINDS

SLIDING = {"use_sliding_window": True, "sliding_window": 6}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied, biased": (
        "llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama large eps": ("llama", {"rms_norm_eps": 0.1}),
    "llama three layers": ("llama", {"num_hidden_layers": 3, "num_key_value_heads": 1}),
    "mistral window": ("mistral", {"sliding_window": 7}),
    "qwen2 window": ("qwen2", SLIDING | {"max_window_layers": 1}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3 mixed": (
        "qwen3",
        SLIDING | {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 12},
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 5, "tie_word_embeddings": True}),
    "smollm3 window": ("smollm3", SLIDING | {"no_rope_layers": [1, 0]}),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("case", "widen"), matrix(CASES, [1, 2, 4]))
def test_outputs_are_those_of_the_small_model(case: str, widen: int, tmp_path: Path) -> None:
    kind, overrides = CASES[case]
    small = make_checkpoint(tmp_path / "small", kind, **overrides)
    spec = f"x{3 * widen**2}"
    large = cost_scale(small, spec, tmp_path / "large", widen=widen)
    text = random_ids(40)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        logits = all_logits(Decoder.load(small, dtype=dtype), text)
        close(all_logits(Decoder.load(large, dtype=dtype), text), logits, tolerance)
        close(Reference(large, dtype).logits(text), Reference(small, dtype).logits(text), tolerance)
        built = scaled_decoder(small, spec, "cpu", dtype, widen=widen)
        close(all_logits(built, text), logits, tolerance)


def test_deepening_alone_changes_no_bit(tmp_path: Path) -> None:
    small = make_checkpoint(tmp_path / "small", "qwen3", dtype=torch.bfloat16)
    large = cost_scale(small, "x3", tmp_path / "large")
    text = random_ids(40)
    close(all_logits(Decoder.load(large), text), all_logits(Decoder.load(small), text), 0.0)


def test_it_reads_on_from_its_cache(tmp_path: Path) -> None:
    small = make_checkpoint(tmp_path / "small", "mistral", sliding_window=7)
    model = scaled_decoder(small, "x3", "cpu", torch.float64, widen=2)
    text = random_ids(30)
    cache = begin(model, text[:20])
    for token in text[20:]:
        next_logits(model, cache)
        cache.commit([token])
    plain = Decoder.load(small, dtype=torch.float64)
    close(next_logits(model, cache), next_logits(plain, begin(plain, text)), 1e-9)


SIZES = {"0.2M": 200_000, "300K": 300_000, "1M": 1_000_000, "0.0002B": 2e5}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("spec", "tied"), matrix(SIZES, [False, True]))
def test_number_of_parameters(spec: str, tied: bool, tmp_path: Path) -> None:
    small = make_checkpoint(tmp_path / "small", tie_word_embeddings=tied)
    model = Decoder.load(cost_scale(small, spec, tmp_path / "large"))
    own = Decoder.load(small)
    layer = (own.info.num_parameters - (1 + (not tied)) * 288 * 32 - 32) // 2
    assert SIZES[spec] <= model.info.num_parameters < SIZES[spec] + layer
    assert (
        model.info.num_parameters
        == scaled_decoder(small, spec, "cpu", torch.float32).info.num_parameters
    )
    assert (
        model.info.num_parameters
        == json.loads((tmp_path / "large/config.json").read_text())["outrider_cost_scaled"][
            "parameters"
        ]
    )


def test_times_as_many(tmp_path: Path) -> None:
    small = make_checkpoint(tmp_path / "small")
    own = Decoder.load(small).info.num_parameters
    model = Decoder.load(cost_scale(small, "x4", tmp_path / "large"))
    assert 4 * own <= model.info.num_parameters < 5 * own


def test_fillers_cost_what_real_layers_cost(tmp_path: Path) -> None:
    """Their matrices are noise as large as the real ones, no two alike."""
    small = make_checkpoint(tmp_path / "small", attention_bias=True)
    large = open_checkpoint(cost_scale(small, "x4", tmp_path / "large"))
    tensors = load_tensors(large, large.tensors, torch.float32)
    faint = {int(n.split(".")[2]) for n, t in tensors.items() if float(t.abs().max()) < 1e-6}
    assert len(faint) == large.config["num_hidden_layers"] - 2 and 0 not in faint
    matrices = [tensor for tensor in tensors.values() if tensor.dim() == 2]
    assert all(0.08 < float(matrix.std()) < 0.12 for matrix in matrices)
    assert len({float(matrix.double().sum()) for matrix in matrices}) == len(matrices)


def test_fillers_stand_evenly(tmp_path: Path) -> None:
    small = open_checkpoint(make_checkpoint(tmp_path / "small", num_hidden_layers=3))
    origins = make_plan(small, "x7").origins
    counts = [origins.count(layer) for layer in range(3)]
    assert list(origins) == sorted(origins) and max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("spec", "copies", "keys"), [("999M", 1, 2), ("1B", 8, 8), ("8B", 16, 8), ("80B", 16, 8)]
)
def test_automatic_width(spec: str, copies: int, keys: int, tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 704, "head_dim": 64, "num_hidden_layers": 6}
    small = make_checkpoint(tmp_path / "small", vocab_size=4096, **sizes)
    plan = make_plan(open_checkpoint(small), spec, None)
    assert plan.widen == copies and plan.large.num_kv_heads == keys
    assert plan.num_parameters >= float(spec[:-1]) * (1e9 if spec.endswith("B") else 1e6)


def test_folder_is_reused_replaced_and_protected(tmp_path: Path) -> None:
    small = make_checkpoint(tmp_path / "small", tokenizer=True, generation={"top_p": 0.5})
    out = tmp_path / "large"
    weights = cost_scale(small, "x3", out) / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert (out / "tokenizer.json").read_bytes() == (small / "tokenizer.json").read_bytes()
    assert json.loads((out / "generation_config.json").read_text())["top_p"] == 0.5
    cost_scale(small, "x3", out)
    assert weights.stat().st_mtime_ns == written
    cost_scale(small, "x4", out)
    assert weights.stat().st_mtime_ns != written
    assert cost_scaled_label(out) == f"{tmp_path.name}/small cost-scaled to x4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "small"]
    with pytest.raises(CheckpointError, match="not a cost-scaled model"):
        cost_scale(small, "x4", small)


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outrider.bench.scaling.scale._SHARD_BYTES", 50_000)
    small = make_checkpoint(tmp_path / "small")
    large = cost_scale(small, "x4", tmp_path / "large")
    assert len(list(large.glob("*.safetensors"))) > 2
    text = random_ids(40)
    close(all_logits(Decoder.load(large), text), all_logits(Decoder.load(small), text), 0.0)
    close(Reference(large).logits(text), Reference(small).logits(text), 1e-5)


def test_labels(tmp_path: Path) -> None:
    small = make_checkpoint(tmp_path / "family" / "target")
    assert cost_scaled_label(small) is None and cost_scaled_label(tmp_path / "nothing") is None
    wide = scaled_decoder(small, "x6", "cpu", torch.float32, widen=2)
    assert wide.info.name == "family/target cost-scaled to x6, widened 2 times"
    assert wide.info.fingerprint != Decoder.load(small).info.fingerprint


@pytest.mark.parametrize("spec", ["", "30", "30 M", "30m", "x", "4x", "-1M", "1e9"])
def test_specs_that_can_not_be_read(spec: str, tmp_path: Path) -> None:
    small = make_checkpoint(tmp_path / "small")
    with pytest.raises(OptionError, match=r"cannot be read\. Give .*30M or 8B.*x4"):
        cost_scale(small, spec, tmp_path / "large")
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize(
    ("spec", "widen", "message"),
    [
        ("1K", 1, "below the .* parameters that small has"),
        ("x0.9", 1, "below"),
        ("x2", 2, "below .* when widened 2 times"),
        ("x9", 3, "widen is 3. Give a power of two"),
        ("x9", 0, "power of two"),
    ],
)
def test_sizes_that_do_not_fit(spec: str, widen: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        cost_scale(make_checkpoint(tmp_path / "small"), spec, tmp_path / "large", widen=widen)


def test_checkpoints_it_does_not_know(tmp_path: Path) -> None:
    small = edited(make_checkpoint(tmp_path / "a"), tmp_path / "small", model_type="gpt2")
    with pytest.raises(CheckpointError, match="gpt2"):
        cost_scale(small, "x3", tmp_path / "large")


@pytest.mark.parametrize("kind", ["gemma2", "phi3", "olmo2", "granite", "glm4"])
def test_architectures_whose_features_are_not_kept(kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "small", kind, **KINDS[kind])
    with pytest.raises(CheckpointError, match="cost scaling does not support"):
        cost_scale(path, "x3", tmp_path / "large")
