"""Experts in the decoder: settings, names, adapters, quantised checkpoints, accelerators."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.safetensors.folder import SINGLE
from outrider.models.cpu.formats import lossless
from outrider.models.cuda import StaticDecoder
from outrider.models.cuda.runner import EagerRunner
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.experts import Mixture, is_router
from outrider.models.llama.lora import Adapter, with_adapter
from outrider.models.loading import load_model
from outrider.models.memory import Demand
from tests.models.checkpoints.packed.packers import pack_checkpoint
from tests.models.setups.make_checkpoints import make_checkpoint, make_model
from tests.models.setups.reference import Reference, all_logits, close, edited, random_ids
from tests.models.setups.runners import load, runner_cases

TEXT = random_ids(40)

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no experts": ("mixtral", {"num_local_experts": 0}, "num_local_experts 0, expected"),
    "null": ("mixtral", {"num_local_experts": "x"}, "num_local_experts 'x', expected"),
    "none chosen": ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok 0, expected"),
    "null chosen": ("mixtral", {"num_experts_per_tok": None}, "num_experts_per_tok null"),
    "all and more": ("mixtral", {"num_experts_per_tok": 7}, "per_tok 7, but 6 experts"),
    "more than there are": ("mixtral", {"num_local_experts": 7}, r"shape \[6, 32\]"),
    "thousands": ("mixtral", {"num_local_experts": 4096}, "4096 experts in 2 layers, but"),
    "beyond the limit": ("mixtral", {"num_local_experts": 1 << 20}, "num_local_experts 1048576"),
    "fewer": ("mixtral", {"num_local_experts": 5}, r"unexpected tensor .*experts\.5|\[5, 32\]"),
    "size": ("qwen3_moe", {"moe_intermediate_size": 0}, "moe_intermediate_size 0, expected"),
    "other size": ("qwen3_moe", {"moe_intermediate_size": 25}, r"implies \[32, 25\]"),
    "step": ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step 0, expected"),
    "other step": ("qwen3_moe", {"decoder_sparse_step": 2}, r"unexpected tensor .*layers\.0\.mlp"),
    "layers": ("qwen3_moe", {"mlp_only_layers": ["1"]}, "mlp_only_layers"),
    "other layers": ("qwen3_moe", {"mlp_only_layers": [1]}, r"unexpected tensor .*layers\.1\.mlp"),
    "types of layers": ("mixtral", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    "sum": ("qwen3_moe", {"norm_topk_prob": 3}, "norm_topk_prob 3, expected true or false"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_one_line(case: str, tmp_path: Path) -> None:
    kind, changes, message = WRONG[case]
    path = make_checkpoint(tmp_path / "model", kind)
    wrong = edited(path, tmp_path / "wrong", **changes)
    if None in changes.values():
        config = json.loads((wrong / "config.json").read_text()) | changes
        (wrong / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message) as caught:
        Decoder.load(wrong)
    assert "\n" not in str(caught.value)


def test_a_missing_matrix_is_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "mixtral")
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.1.block_sparse_moe.experts.4.w3.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"lacks tensor {name}"):
        Decoder.load(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_merged_experts_are_split(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    one = make_checkpoint(tmp_path / "one", kind, dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(one, dtype=dtype)
    model.save_pretrained(tmp_path / "new", save_original_format=False)
    assert any(name.endswith("gate_up_proj") for name in load_file(tmp_path / "new" / SINGLE))
    for runner in ("decoder", "native"):
        ours, theirs = (load(runner, path, torch.float32) for path in (tmp_path / "new", one))
        assert torch.equal(all_logits(ours, TEXT), all_logits(theirs, TEXT))
    assert lossless(open_checkpoint(tmp_path / "new")) is lossless(open_checkpoint(one))


def test_names_of_routers() -> None:
    assert is_router("model.layers.0.mlp.gate.weight")
    assert is_router("model.layers.0.block_sparse_moe.gate.weight")
    assert not is_router("model.layers.0.mlp.gate_proj.weight")


def test_memory_is_planned_for_all_experts(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16))
    demand = Demand.of_checkpoint("target", checkpoint, torch.float32)
    assert demand.weights == 4 * make_model("mixtral").num_parameters()


def test_equal_probabilities_and_one_expert(tmp_path: Path) -> None:
    """The sum of experts that are all alike is one of them, whatever the router says."""
    path = make_checkpoint(tmp_path / "model", "mixtral")
    tensors = load_file(path / "model.safetensors")
    for name in tensors:
        if name.endswith("gate.weight"):
            tensors[name].zero_()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    for layer in Decoder.load(path).weights.layers:
        assert isinstance(layer.experts, Mixture)
        weights, chosen = layer.experts.route(torch.randn(5, 32))
        assert torch.allclose(weights, torch.full((5, 3), 1 / 3))
        assert all(len(set(row)) == 3 for row in chosen.tolist())


# -- adapters and quantised weights ------------------------------------------------------------


@pytest.mark.parametrize("runner", runner_cases(("decoder", "native")))
def test_an_adapter_may_change_experts(runner: str, tmp_path: Path) -> None:
    """Adapters with a module for each expert; peft wrote them before transformers 5."""
    path = make_checkpoint(tmp_path / "model", "mixtral")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["w1"]}
    module = "layers.1.block_sparse_moe.experts.2.w1"
    down, up = torch.randn(2, 32), torch.randn(48, 2)
    adapter = _adapter(tmp_path / "adapter", settings, module, down, up)
    expected = tmp_path / "expected"
    edited(path, expected)
    tensors = load_file(path / "model.safetensors")
    tensors[f"model.{module}.weight"] += 2 * up @ down
    save_file(tensors, expected / "model.safetensors", {"format": "pt"})
    model = load(runner, with_adapter(open_checkpoint(path), adapter), torch.float32)
    close(all_logits(model, TEXT), Reference(expected).logits(TEXT))


def _adapter(
    folder: Path, settings: dict[str, Any], module: str, down: torch.Tensor, up: torch.Tensor
) -> Adapter:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    name = f"base_model.model.model.{module}.lora_"
    pair = {f"{name}A.weight": down, f"{name}B.weight": up}
    save_file(pair, folder / "adapter_model.safetensors")
    return Adapter.load(folder)


def test_an_adapter_of_merged_experts_is_refused_by_name(tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "r": 2, "target_parameters": ["mlp.experts.gate_up_proj"]}
    with pytest.raises(CheckpointError, match="target_parameters"):
        _adapter(tmp_path / "a", settings, "layers.0.mlp", torch.ones(2, 4), torch.ones(4, 2))


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_quantised_experts_give_the_logits_of_their_weights(kind: str, tmp_path: Path) -> None:
    source = make_checkpoint(
        tmp_path / "source", "qwen3_moe", hidden_size=64, moe_intermediate_size=64
    )
    packed, plain = pack_checkpoint(source, tmp_path, kind)
    for runner in ("decoder", "native"):
        ours, theirs = (load(runner, path, torch.float32) for path in (packed, plain))
        close(all_logits(ours, TEXT), all_logits(theirs, TEXT))


# -- accelerators ------------------------------------------------------------------------------


def test_forwards_with_experts_are_never_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experts of a row are known only after its router, so each forward has other operators."""
    monkeypatch.setattr(
        "outrider.models.cuda.decoder.runner_for", lambda _: pytest.fail("captured")
    )
    model = StaticDecoder.load(make_checkpoint(tmp_path / "model", "mixtral"))
    assert isinstance(model._runner, EagerRunner)
    assert type(load_model(tmp_path / "model", dtype="float64", device="cpu")) is Decoder
