"""GPTQ, AWQ, compressed-tensors and bitsandbytes: packed here by the definitions of the formats."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import outrider
from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import load_grouped, load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import all_logits, random_ids

GROUP = 32
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}
TEXT = random_ids(30)
Packed = tuple[dict[str, Tensor], Tensor]
"""The tensors of one matrix by their endings, and the weights that they stand for."""


def words(values: Tensor, bits: int = 4) -> Tensor:
    """Pack the last axis into I32, the first value in the lowest bits."""
    per_word = 32 // bits
    parts = values.long().unflatten(-1, (-1, per_word)) << (bits * torch.arange(per_word))
    total = parts.sum(-1)
    return torch.where(total >= 1 << 31, total - (1 << 32), total).to(torch.int32)


def numbers(shape: tuple[int, int], bits: int = 4, *, middle: bool = False) -> tuple[Tensor, ...]:
    """Random integers, zero points and scales."""
    outputs, inputs = shape
    groups = -(-inputs // GROUP)
    quants = torch.randint(0, 1 << bits, shape)
    zeros = torch.randint(1, 1 << bits, (outputs, groups))
    if middle:
        zeros = torch.full_like(zeros, 1 << (bits - 1))
    scales = (torch.rand(outputs, groups) * 0.02 + 0.001).half()
    return quants, zeros, scales


def spread(values: Tensor, order: Tensor | None, inputs: int) -> Tensor:
    index = torch.arange(inputs) // GROUP if order is None else order
    return values.float()[:, index.long()]


def gptq(shape: tuple[int, int], *, version: int = 1, ordered: bool = False) -> Packed:
    quants, zeros, scales = numbers(shape)
    order = torch.randperm(shape[1]).to(torch.int32) // GROUP if ordered else None
    index = torch.arange(shape[1], dtype=torch.int32) // GROUP if order is None else order
    weight = spread(scales, order, shape[1]) * (quants - spread(zeros, order, shape[1]))
    return {
        "qweight": words(quants).t(),
        "qzeros": words((zeros - int(version == 1)).t()),
        "scales": scales.t(),
        "g_idx": index,
    }, weight


def awq(shape: tuple[int, int]) -> Packed:
    quants, zeros, scales = numbers(shape)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])  # the output in each place of a word

    def packed(values: Tensor) -> Tensor:
        return words(values.unflatten(-1, (-1, 8))[..., order].flatten(-2))

    weight = spread(scales, None, shape[1]) * (quants - spread(zeros, None, shape[1]))
    return {
        "qweight": packed(quants.t()),
        "qzeros": packed(zeros.t()),
        "scales": scales.t(),
    }, weight


def compressed(shape: tuple[int, int], *, symmetric: bool = True) -> Packed:
    quants, zeros, scales = numbers(shape, middle=symmetric)
    weight = spread(scales, None, shape[1]) * (quants - spread(zeros, None, shape[1]))
    tensors = {
        "weight_packed": words(quants),
        "weight_scale": scales,
        "weight_shape": torch.tensor(shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words(zeros.t()).t()
    return tensors, weight


def integers(shape: tuple[int, int]) -> Packed:
    quants = torch.randint(-128, 128, shape).to(torch.int8)
    scales = (torch.rand(shape[0], 1) * 0.001 + 0.0001).half()
    return {"weight": quants, "weight_scale": scales}, quants.float() * scales.float()


def nf4(shape: tuple[int, int]) -> Packed:
    levels = torch.linspace(-1, 1, 16).pow(3)
    quants = torch.randint(0, 16, shape)
    scales = torch.rand(shape[0] * shape[1] // 64) * 0.1 + 0.01
    flat = quants.flatten()
    weight = levels[flat] * scales.repeat_interleave(64)
    state = json.dumps({"shape": list(shape), "blocksize": 64, "quant_type": "nf4"}).encode()
    return {
        "weight": ((flat[::2] << 4) | flat[1::2]).to(torch.uint8)[:, None],
        "weight.absmax": scales,
        "weight.quant_map": levels,
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8),
    }, weight.view(shape)


def _compressed_settings(**weights: Any) -> dict[str, Any]:
    given = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"} | weights
    group = {"targets": ["Linear"], "weights": {"group_size": GROUP} | given}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


@dataclass(frozen=True)
class Maker:
    """A format: its settings, how a matrix is packed, and whether kernels keep its integers."""

    settings: dict[str, Any]
    pack: Callable[[tuple[int, int]], Packed]
    kept: bool = True


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False}
MAKERS = {
    "gptq": Maker(_GPTQ, gptq),
    "gptq_v2": Maker(
        _GPTQ | {"checkpoint_format": "gptq_v2"}, lambda shape: gptq(shape, version=2)
    ),
    "gptq in another order": Maker(
        _GPTQ | {"desc_act": True}, lambda shape: gptq(shape, ordered=True), kept=False
    ),
    "awq": Maker({"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True}, awq),
    "compressed-tensors": Maker(_compressed_settings(), compressed),
    "compressed-tensors with zero points": Maker(
        _compressed_settings(symmetric=False), lambda shape: compressed(shape, symmetric=False)
    ),
    "compressed-tensors of 8 bits": Maker(
        _compressed_settings(num_bits=8, strategy="channel", group_size=None)
        | {"format": "int-quantized"},
        integers,
    ),
    "nf4": Maker(
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        nf4,
        kept=False,
    ),
}


def make(maker: Maker, folder: Path) -> tuple[Path, Path]:
    """Write a packed checkpoint, and one with the same weights in float32; return both folders."""
    plain = make_checkpoint(folder / "plain", "llama", **SIZES)
    packed = make_checkpoint(folder / "packed", "llama", **SIZES)
    tensors = load_file(plain / "model.safetensors")
    stored: dict[str, Tensor] = {}
    for name, tensor in list(tensors.items()):
        if not name.endswith("_proj.weight"):
            stored[name] = tensor
            continue
        shape = (tensor.shape[0], tensor.shape[1])
        parts, weight = maker.pack(shape)
        module = name.removesuffix(".weight")
        stored |= {f"{module}.{ending}": part.contiguous() for ending, part in parts.items()}
        tensors[name] = weight.float().contiguous()
    save_file(tensors, plain / "model.safetensors")
    save_file(stored, packed / "model.safetensors")
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = maker.settings
    (packed / "config.json").write_text(json.dumps(config))
    return packed, plain


@pytest.mark.parametrize("name", MAKERS)
def test_a_packed_checkpoint_is_the_one_it_stands_for(name: str, tmp_path: Path) -> None:
    packed, plain = make(MAKERS[name], tmp_path)
    weights = open_checkpoint(plain)
    checkpoint = open_checkpoint(packed)
    for tensor in weights.tensors:
        ours, theirs = (load_tensors(c, [tensor], torch.float32) for c in (checkpoint, weights))
        assert torch.allclose(ours[tensor], theirs[tensor], rtol=1e-6, atol=0), tensor
    close = (all_logits(Decoder.load(packed), TEXT) - all_logits(Decoder.load(plain), TEXT)).abs()
    assert float(close.max()) < 1e-4
    grouped = load_grouped(checkpoint, "model.layers.1.mlp.down_proj.weight")
    assert (grouped is not None) == MAKERS[name].kept
    if grouped is not None:
        assert torch.allclose(
            grouped.dequantize(),
            load_tensors(checkpoint, ["model.layers.1.mlp.down_proj.weight"], torch.float32)[
                "model.layers.1.mlp.down_proj.weight"
            ],
            atol=1e-6,
        )


@pytest.mark.parametrize("name", MAKERS)
def test_kernels_run_packed_checkpoints(name: str, tmp_path: Path) -> None:
    """Near float32 on the same weights; equal rows at any width; drafted equals undrafted."""
    packed, _ = make(MAKERS[name], tmp_path)
    stored = NativeDecoder.load(packed, dtype=None)
    exact = NativeDecoder.load(packed, dtype=torch.float32)
    ours, theirs = all_logits(stored, TEXT), all_logits(exact, TEXT)
    assert float((ours - theirs).norm() / theirs.norm()) < 0.03
    for width in (1, 3, 9):
        assert torch.equal(all_logits(stored, TEXT[:width]), ours[:width])
    options: dict[str, Any] = {"max_new_tokens": 40, "ignore_eos": True}
    plain = outrider.load(packed, mode="none", dtype="stored").generate([7, 8, 9], **options)
    drafted = outrider.load(packed, drafter="lookup", dtype="stored").generate([7, 8, 9], **options)
    assert drafted.token_ids == plain.token_ids


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "three bits": (_GPTQ | {"bits": 3}, "3 bits"),
    "marlin": (_GPTQ | {"checkpoint_format": "marlin"}, "marlin"),
    "a method": ({"quant_method": "aqlm"}, "aqlm"),
    "no bits": ({"quant_method": "gptq", "group_size": 32}, "bits"),
    "a group": (_GPTQ | {"group_size": 0}, "group_size"),
    "a group of text": (_GPTQ | {"group_size": "many"}, "group_size"),
    "no groups": ({"quant_method": "compressed-tensors"}, "config_groups"),
    "floats": (_compressed_settings(type="float"), "compressed-tensors"),
    "another size": (_GPTQ | {"group_size": 16}, "qzeros|scales"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    settings, message = REFUSED[case]
    packed, _ = make(Maker(settings, gptq), tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        outrider.load(packed, mode="none", dtype="stored")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_missing_part_is_named(part: str, tmp_path: Path) -> None:
    packed, _ = make(MAKERS["gptq"], tmp_path)
    tensors = load_file(packed / "model.safetensors")
    del tensors[f"model.layers.0.mlp.up_proj.{part}"]
    save_file(tensors, packed / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.mlp\.up_proj"):
        Decoder.load(packed)


def test_scales_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    packed, _ = make(MAKERS["awq"], tmp_path)
    tensors = load_file(packed / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.scales"][0, 3] = float("nan")
    save_file(tensors, packed / "model.safetensors")
    for dtype in (torch.float32, None):
        with pytest.raises(CheckpointError, match="NaN"):
            NativeDecoder.load(packed, dtype=dtype)
