"""What does not fit or is not supported is one line that names it, before weights are read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.packed.reading import refusal
from outrider.models.llama.config import supports
from outrider.models.loading import load_model
from tests.models.checkpoints.packed.packers import pack_checkpoint, settings_of
from tests.models.setups.make_checkpoints import make_checkpoint

MODULE = "model.layers.0.mlp.up_proj"


def with_weights(**changes: Any) -> dict[str, Any]:
    settings = settings_of("compressed")
    settings["config_groups"]["group_0"]["weights"] |= changes
    return settings


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"quant_method": "hqq"}, "hqq"),
    "no method": ({"bits": 4}, "an unknown method"),
    "2 bits": (settings_of("gptq", bits=2), "2 bits"),
    "3 bits": (settings_of("gptq", bits=3), "3 bits"),
    "marlin": (settings_of("gptq", checkpoint_format="marlin"), "marlin"),
    "marlin flag": (settings_of("gptq", is_marlin_format=True), "marlin"),
    "words of 16 bits": (settings_of("gptq", pack_dtype="int16"), "int16"),
    "rotation": (settings_of("gptq", rotation="hadamard"), "hadamard"),
    "adapter": (settings_of("gptq", adapter={"rank": 4}), "adapter"),
    "own settings": (settings_of("gptq", dynamic={".*down.*": {"bits": 8}}), "dynamic"),
    "gemv": (settings_of("awq", version="GEMV"), "GEMV"),
    "llm-awq": (settings_of("awq", backend="llm-awq"), "llm-awq"),
    "AWQ of 8 bits": (settings_of("awq") | {"bits": 8}, "8 bits"),
    "fp8": (with_weights(type="float", num_bits=8), "float"),
    "6 bits": (with_weights(num_bits=6), "6 bits"),
    "blocks": (with_weights(strategy="block"), "block"),
    "actorder": (with_weights(actorder="random"), "actorder"),
    "marlin-24": (settings_of("compressed", format="marlin-24"), "marlin-24"),
    "sparse": (settings_of("compressed", sparsity_config={"format": "sparse-24"}), "sparsity"),
    "rotated": (settings_of("compressed", transform_config={"config_groups": {}}), "transform"),
    "no groups": (settings_of("compressed", config_groups={}), "config_groups"),
    "8 bits": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "8 bits"),
    "af4": (settings_of("nf4", bnb_4bit_quant_type="af4"), "af4"),
}

HARMLESS: dict[str, dict[str, Any]] = {
    "gptq": settings_of("gptq", damp_percent=0.1, meta={"quantizer": "x"}, true_sequential=True)
    | {"dynamic": {"-:.*vision.*": {}}, "static_groups": False, "lm_head": False},
    "awq": settings_of("awq", modules_to_not_convert=["lm_head"], do_fuse=False),
    "compressed": settings_of("compressed", sparsity_config={}, quantization_status="compressed")
    | {"kv_cache_scheme": {"num_bits": 8}, "global_compression_ratio": 1.5},
    "nf4": settings_of("nf4", bnb_4bit_compute_dtype="bfloat16", llm_int8_threshold=6.0),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_named(name: str) -> None:
    settings, word = UNSUPPORTED[name]
    reason = refusal({"quantization_config": settings})
    assert reason is not None and word in reason and "\n" not in reason
    assert "not supported" in reason
    assert refusal({"text_config": {"quantization_config": settings}}) == reason
    assert supports({"model_type": "llama", "quantization_config": settings}) == reason


@pytest.mark.parametrize("name", HARMLESS)
def test_other_fields_are_ignored(name: str) -> None:
    assert refusal({"quantization_config": HARMLESS[name]}) is None


def test_activations_of_eight_bits_do_not_matter() -> None:
    settings = settings_of("int8")
    settings["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True}
    assert refusal({"quantization_config": settings}) is None


WRONG_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "bits": (settings_of("gptq") | {"bits": "4"}, "bits"),
    "list of bits": (settings_of("gptq") | {"bits": [4]}, "bits"),
    "no group": ({"quant_method": "gptq", "bits": 4}, "group_size"),
    "group of 0": (settings_of("gptq", group=0), "group_size"),
    "group of -2": (settings_of("gptq", group=-2), "group_size"),
    "group of 0 in AWQ": (settings_of("awq", group=0), "group_size"),
    "huge group": (settings_of("awq", group=10**12), "group_size"),
    "version": (settings_of("awq", version=3), "version"),
    "groups": (settings_of("compressed", config_groups=[1]), "config_groups"),
    "preset": (settings_of("compressed", config_groups={"W8A16": ["Linear"]}), "W8A16"),
    "no weights": (settings_of("compressed", config_groups={"a": {"targets": []}}), "weights"),
    "num_bits": (with_weights(num_bits=4.5), "num_bits"),
    "symmetric": (with_weights(symmetric="yes"), "symmetric"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values_are_named(name: str, packed: Path, tmp_path: Path) -> None:
    settings, word = WRONG_VALUES[name]
    changed(packed, tmp_path, settings=settings)
    with pytest.raises(CheckpointError, match=rf"config\.json.*{word}"):
        open_checkpoint(tmp_path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return make_checkpoint(folder, hidden_size=64, intermediate_size=96)


@pytest.fixture(scope="module")
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_checkpoint(source, tmp_path_factory.mktemp("gptq"), "gptq")[0]


def changed(
    folder: Path,
    target: Path,
    *,
    settings: dict[str, Any] | None = None,
    module: str = MODULE,
    **parts: Any,
) -> Path:
    """Copy a folder with other settings, and other parts of a module; None removes a part."""
    config = json.loads((folder / "config.json").read_text())
    if settings is not None:
        config["quantization_config"] = settings
    (target / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    for part, tensor in parts.items():
        tensors.pop(f"{module}.{part}", None)
        if tensor is not None:
            tensors[f"{module}.{part}"] = tensor
    save_file(tensors, target / "model.safetensors")
    return target


def ones(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


HALF, OCTET = torch.float16, torch.uint8
STATE = "weight.quant_state.bitsandbytes__nf4"


def state(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=OCTET)


WRONG_PARTS: dict[str, tuple[str, dict[str, torch.Tensor | None], str]] = {
    "no scales": ("gptq", {"scales": None}, f"lacks tensor {MODULE}.scales"),
    "no zeros": ("gptq", {"qzeros": None}, f"lacks tensor {MODULE}.qzeros"),
    "no integers": ("gptq", {"qweight": None}, f"lacks tensor {MODULE}.qweight"),
    "scales of integers": ("gptq", {"scales": ones(2, 96)}, "scales has dtype I32"),
    "few scales": ("gptq", {"scales": ones(1, 96, dtype=HALF)}, "scales has shape"),
    "few zeros": ("gptq", {"qzeros": ones(2, 11)}, "qzeros has shape"),
    "short order": ("gptq", {"g_idx": ones(63)}, "g_idx has shape"),
    "three axes": ("gptq", {"qweight": ones(2, 2, 2)}, "qweight has shape"),
    "empty": ("gptq", {"qweight": ones(0, 96)}, "qweight has shape"),
    "odd outputs": ("gptq", {"qweight": ones(8, 95)}, "qweight has 95 columns"),
    "octets": ("gptq", {"qweight": ones(8, 96, dtype=OCTET)}, "qweight has dtype U8"),
    "both": ("gptq", {"weight": ones(96, 64, dtype=HALF)}, "both quantised and as plain"),
    "AWQ scales": ("awq", {"scales": ones(2, 95, dtype=HALF)}, "scales has shape"),
    "AWQ zeros": ("awq", {"qzeros": None}, "lacks tensor .*qzeros"),
    "no shape": ("compressed", {"weight_shape": None}, "lacks tensor .*weight_shape"),
    "other shape": ("compressed", {"weight_shape": torch.tensor([96, 72])}, "does not fit"),
    "huge shape": ("compressed", {"weight_shape": torch.tensor([96, 2**60])}, "does not fit"),
    "negative shape": ("compressed", {"weight_shape": torch.tensor([96, -64])}, "does not fit"),
    "three sizes": ("compressed", {"weight_shape": torch.tensor([96, 64, 1])}, "weight_shape has"),
    "no scale": ("compressed", {"weight_scale": None}, "lacks tensor .*weight_scale"),
    "no zero": ("compressed", {"weight_zero_point": None}, "lacks tensor .*weight_zero_point"),
    "zero": ("compressed", {"weight_zero_point": ones(96, 2)}, "weight_zero_point has shape"),
    "float weights": ("int8", {"weight": ones(96, 64, dtype=HALF)}, "weight has dtype F16"),
    "no weights": ("int8", {"weight": None}, "lacks tensor .*weight"),
    "no state": ("nf4", {STATE: None}, "lacks tensor .*quant_state"),
    "no JSON": ("nf4", {STATE: state("{")}, "is not JSON"),
    "NaN": ("nf4", {STATE: state('{"shape": [NaN, 1], "blocksize": 64}')}, "NaN"),
    "blocks of 0": ("nf4", {STATE: state('{"shape": [96, 64], "blocksize": 0}')}, "blocksize"),
    "one axis": ("nf4", {STATE: state('{"shape": [6144], "blocksize": 64}')}, "two axes"),
    "large": ("nf4", {STATE: state('{"shape": [99999, 99999], "blocksize": 64}')}, "bytes"),
    "long": ("nf4", {STATE: ones(100_000, dtype=OCTET)}, "at most"),
    "map": ("nf4", {"weight.quant_map": torch.ones(15)}, "quant_map has shape"),
    "absmax": ("nf4", {"weight.absmax": torch.ones(95)}, "absmax has shape"),
    "nested": ("nf4", {"weight.nested_absmax": torch.ones(1)}, "nested_blocksize"),
}


@pytest.mark.parametrize("name", WRONG_PARTS)
def test_wrong_parts_are_named(name: str, source: Path, tmp_path: Path) -> None:
    kind, parts, message = WRONG_PARTS[name]
    folder, _ = pack_checkpoint(source, tmp_path / "model", kind)
    changed(folder, tmp_path, **parts)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert MODULE in str(caught.value) and "\n" not in str(caught.value)


BAD = float("nan"), float("inf")
WRONG_CONTENT: dict[str, tuple[str, dict[str, torch.Tensor | None], str]] = {
    "NaN scales": (
        "gptq",
        {"scales": torch.full((2, 96), BAD[0]).half()},
        "NaN values in .*scales",
    ),
    "infinite scales": ("awq", {"scales": torch.full((2, 96), BAD[1]).half()}, "infinite .*scales"),
    "large scales": ("gptq", {"scales": torch.full((2, 96), 3e38)}, "infinite values in .*weight"),
    "order": ("gptq", {"g_idx": ones(64) * 2}, "names group 2, expected 0 to 1"),
    "negative order": ("gptq", {"g_idx": -ones(64)}, "names group -1"),
    "half an order": ("compressed", {"weight_g_idx": torch.arange(64).int() % 2 - 1}, "group -1"),
    "absmax": ("nf4", {"weight.absmax": torch.full((96,), BAD[0])}, "NaN values in .*absmax"),
    "map": ("nf4", {"weight.quant_map": torch.full((16,), BAD[1])}, "infinite .*quant_map"),
}


@pytest.mark.parametrize("name", WRONG_CONTENT)
def test_wrong_content_is_named(name: str, source: Path, tmp_path: Path) -> None:
    kind, parts, message = WRONG_CONTENT[name]
    folder, _ = pack_checkpoint(source, tmp_path / "model", kind)
    checkpoint = open_checkpoint(changed(folder, tmp_path, **parts))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tensors(checkpoint, [f"{MODULE}.weight"], torch.float32)
    assert MODULE in str(caught.value) and "\n" not in str(caught.value)


def test_integers_of_more_bits_than_said(source: Path, tmp_path: Path) -> None:
    folder, _ = pack_checkpoint(source, tmp_path / "model", "int8", bits=8)
    settings = settings_of("int8", bits=4)
    checkpoint = open_checkpoint(changed(folder, tmp_path, settings=settings))
    with pytest.raises(CheckpointError, match="has more than 4 bits"):
        load_tensors(checkpoint, [f"{MODULE}.weight"], torch.float32)


def test_settings_without_packed_weights(source: Path, tmp_path: Path) -> None:
    changed(source, tmp_path, settings=settings_of("gptq"))
    with pytest.raises(CheckpointError, match=r"names gptq .* no tensor is quantised"):
        open_checkpoint(tmp_path)


def test_packed_weights_without_settings(packed: Path, tmp_path: Path) -> None:
    changed(packed, tmp_path, settings={})
    with pytest.raises(CheckpointError, match=r"config\.json has no quantization_config") as caught:
        open_checkpoint(tmp_path)
    assert "quantize_config.json" in str(caught.value)


def test_a_module_without_targets(packed: Path, source: Path, tmp_path: Path) -> None:
    folder, _ = pack_checkpoint(source, tmp_path / "model", "compressed")
    settings = settings_of("compressed")
    scheme = settings["config_groups"]["group_0"]
    settings["config_groups"] = {
        "a": scheme | {"targets": ["re:.*mlp.*"]},
        "b": scheme | {"targets": ["model.layers.0.self_attn.q_proj"]},
    }
    changed(folder, tmp_path, settings=settings)
    with pytest.raises(CheckpointError, match=r"no targets in config_groups for model.*self_attn"):
        open_checkpoint(tmp_path)


def test_other_architectures_with_four_bits_are_refused(packed: Path, tmp_path: Path) -> None:
    changed(packed, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "gemma"}))
    with pytest.raises(CheckpointError, match=r"4-bit weights \(gptq\).*'gemma'"):
        load_model(tmp_path)


def test_a_file_that_changes_after_it_was_opened(packed: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(changed(packed, tmp_path))
    changed(packed, tmp_path, scales=ones(1, 1, dtype=HALF))
    with pytest.raises(CheckpointError, match="scales has changed"):
        load_tensors(checkpoint, [f"{MODULE}.weight"], torch.float32)
