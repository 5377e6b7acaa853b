"""Each format decodes to what its own library decodes, and the kernels get the same weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from outrider.models.checkpoints.checkpoint import Checkpoint, load_grouped, load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.panels import to_panels
from tests.models.checkpoints.packed.packers import (
    PACKERS,
    Matrix,
    matrix,
    nf4,
    settings_of,
)

FILES = Path(__file__).parent / "files"
MODULE = "model.layers.0.mlp.up_proj"
NAME = f"{MODULE}.weight"

NOT_GROUPED = ("gptq-4-order", "gptq-8", "compressed-4-order", "compressed-int8-asymmetric")
NOT_GROUPED += ("nf4", "nf4-nested", "nf4-storage", "fp4", "compressed-int8")
"""Act order, 8 bits with zero points, no equal steps, and scales beyond float16."""


def opened(
    folder: Path, settings: dict[str, object], tensors: dict[str, torch.Tensor]
) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    config = {"model_type": "llama", "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors")
    return open_checkpoint(folder)


def of_file(name: str, folder: Path) -> tuple[Checkpoint, torch.Tensor]:
    file = FILES / f"{name}.safetensors"
    with safe_open(str(file), framework="pt") as stream:
        settings = json.loads(stream.metadata()["quantization_config"])
    tensors = load_file(file)
    return opened(folder, settings, tensors), tensors["expected"]


def of_matrix(kind: str, found: Matrix, folder: Path, **how: object) -> Checkpoint:
    tensors = {f"{MODULE}.{part}": t for part, t in PACKERS[kind](found).items()}
    return opened(folder, settings_of(kind, found.bits, found.group, **how), tensors)


@pytest.mark.parametrize("name", sorted(file.stem for file in FILES.glob("*.safetensors")))
def test_the_weights_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    checkpoint, expected = of_file(name, tmp_path)
    info = checkpoint.tensors[NAME]
    assert info.stored is not None and info.shape == (32, 64)
    assert set(checkpoint.tensors) == {NAME, "expected"}
    assert info.dtype == info.stored.kind
    found = load_tensors(checkpoint, [NAME], torch.float32)[NAME]
    assert torch.equal(found.to(expected.dtype), expected)
    grouped = load_grouped(checkpoint, NAME)
    assert (grouped is None) == (name in NOT_GROUPED)
    if grouped is not None:
        assert torch.equal(grouped.dequantize(), found)
        to_panels(grouped, 0)  # asserts that a kernel reads it


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, 64, 128, -1])
@pytest.mark.parametrize("kind", PACKERS)
def test_any_group_reads_exactly(kind: str, group: int, symmetric: bool, tmp_path: Path) -> None:
    weight = torch.randn(16, 160, generator=torch.Generator().manual_seed(group))
    found = matrix(weight, group=group, symmetric=symmetric)
    checkpoint = of_matrix(kind, found, tmp_path)
    read = load_tensors(checkpoint, [NAME], torch.float32)[NAME]
    assert torch.equal(read, found.weights)
    grouped = load_grouped(checkpoint, NAME)
    assert grouped is not None and torch.equal(grouped.dequantize(), read)
    assert grouped.zero == (8 if symmetric else 0)
    assert (grouped.minimums is None) == symmetric
    to_panels(grouped, 0)


@pytest.mark.parametrize("kind", ["gptq", "gptq_v2", "compressed", "int8"])
def test_eight_bits(kind: str, tmp_path: Path) -> None:
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(0))
    for symmetric in (True, False):
        found = matrix(weight, bits=8, symmetric=symmetric)
        checkpoint = of_matrix(kind, found, tmp_path / str(symmetric))
        read = load_tensors(checkpoint, [NAME], torch.float32)[NAME]
        assert torch.equal(read, found.weights)
        grouped = load_grouped(checkpoint, NAME)
        assert (grouped is None) != symmetric
        if grouped is not None:
            assert grouped.zero == 128 and torch.equal(grouped.dequantize(), read)


@pytest.mark.parametrize("kind", ["gptq", "compressed"])
def test_inputs_in_another_order_are_read_but_not_grouped(kind: str, tmp_path: Path) -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    found = matrix(weight, mixed=True)
    checkpoint = of_matrix(kind, found, tmp_path)
    read = load_tensors(checkpoint, [NAME], torch.float32)[NAME]
    assert torch.equal(read, found.weights)
    assert load_grouped(checkpoint, NAME) is None


def test_small_groups_are_read_but_not_grouped(tmp_path: Path) -> None:
    found = matrix(torch.randn(16, 64), group=16)
    checkpoint = of_matrix("gptq", found, tmp_path)
    assert torch.equal(load_tensors(checkpoint, [NAME], torch.float32)[NAME], found.weights)
    assert load_grouped(checkpoint, NAME) is None


@pytest.mark.parametrize("kind", ["gptq", "awq", "compressed"])
def test_scales_that_float16_does_not_hold_are_not_grouped(kind: str, tmp_path: Path) -> None:
    found = matrix(torch.randn(16, 64))
    tensors = {f"{MODULE}.{part}": t for part, t in PACKERS[kind](found).items()}
    part = "weight_scale" if kind == "compressed" else "scales"
    scales = (found.scales.bfloat16() * 1e-7).to(torch.bfloat16)
    tensors[f"{MODULE}.{part}"] = scales if kind == "compressed" else scales.t()
    checkpoint = opened(tmp_path, settings_of(kind), tensors)
    read = load_tensors(checkpoint, [NAME], torch.float32)[NAME]
    exact = scales.float()[:, found.order] * (found.quants - found.zeros[:, found.order])
    assert torch.equal(read, exact)
    assert load_grouped(checkpoint, NAME) is None


def test_zero_points_of_version_1_borrow_from_the_next(tmp_path: Path) -> None:
    """GPTQModel subtracts 1 from whole words, so a zero point of 0 borrows."""
    found = matrix(torch.randn(16, 64))
    found.zeros[3, 1] = found.zeros[8, 0] = 0
    tensors = PACKERS["gptq_v2"](found)
    tensors["qzeros"] = tensors["qzeros"] - 0x11111111
    named = {f"{MODULE}.{part}": t for part, t in tensors.items()}
    checkpoint = opened(tmp_path, settings_of("gptq"), named)
    assert torch.equal(load_tensors(checkpoint, [NAME], torch.float32)[NAME], found.weights)


def test_octets_stored_as_floats_may_look_like_nan(tmp_path: Path) -> None:
    weight = torch.ones(16, 64)
    tensors, expected = nf4(weight)
    tensors["weight"] = tensors["weight"].flatten().view(torch.bfloat16)[:, None]
    assert tensors["weight"].isnan().all()
    named = {f"{MODULE}.{part}": t for part, t in tensors.items()}
    checkpoint = opened(tmp_path, settings_of("nf4"), named)
    assert torch.equal(load_tensors(checkpoint, [NAME], torch.float32)[NAME], expected)


def test_old_forms_of_compressed_tensors(tmp_path: Path) -> None:
    """Zero points of one octet each, orders of -1, and scales of a whole matrix."""
    found = matrix(torch.randn(16, 64), group=-1)
    named = {f"{MODULE}.{part}": t for part, t in PACKERS["compressed"](found).items()}
    named[f"{MODULE}.weight_zero_point"] = (found.zeros - 8).to(torch.int8)
    named[f"{MODULE}.weight_g_idx"] = torch.full((64,), -1).int()
    named[f"{MODULE}.input_scale"] = torch.ones(1)
    checkpoint = opened(tmp_path / "a", settings_of("compressed", group=-1), named)
    assert set(checkpoint.tensors) == {NAME}
    assert torch.equal(load_tensors(checkpoint, [NAME], torch.float32)[NAME], found.weights)
    named[f"{MODULE}.weight_scale"] = torch.full((1,), 0.5).half()
    named[f"{MODULE}.weight_zero_point"] = torch.zeros(1, dtype=torch.int8)
    settings = settings_of("compressed", group=-1)
    settings["config_groups"]["group_0"]["weights"]["strategy"] = "tensor"
    checkpoint = opened(tmp_path / "b", settings, named)
    read = load_tensors(checkpoint, [NAME], torch.float32)[NAME]
    assert torch.equal(read, 0.5 * (found.quants - 8).float())


def test_settings_of_a_module_go_by_name_then_expression_then_class(tmp_path: Path) -> None:
    modules = ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "lm_head"]
    settings = settings_of("compressed")
    scheme = settings["config_groups"]["group_0"]

    def scheme_of(group: int, targets: list[str]) -> dict[str, object]:
        return scheme | {"targets": targets, "weights": scheme["weights"] | {"group_size": group}}

    settings["config_groups"] = {
        "a": scheme_of(32, ["Linear"]),
        "b": scheme_of(64, ["re:.*down_proj"]),
        "c": scheme_of(96, ["lm_head"]),
    }
    weight = torch.randn(8, 96)
    found = [matrix(weight, group=group) for group in (32, 64, 96)]
    named = {
        f"{module}.{part}": t
        for module, one in zip(modules, found, strict=True)
        for part, t in PACKERS["compressed"](one).items()
    }
    checkpoint = opened(tmp_path, settings, named)
    for module, one in zip(modules, found, strict=True):
        name = f"{module}.weight"
        assert torch.equal(load_tensors(checkpoint, [name], torch.float32)[name], one.weights)


def test_the_fingerprint_follows_every_part(tmp_path: Path) -> None:
    found = matrix(torch.randn(16, 64))
    first = of_matrix("gptq", found, tmp_path / "a").fingerprint
    found.scales[0, 0] *= 2
    second = of_matrix("gptq", found, tmp_path / "b").fingerprint
    found.order[0] = 1
    assert len({first, second, of_matrix("gptq", found, tmp_path / "c").fingerprint}) == 3


def test_sizes_count_all_parts(tmp_path: Path) -> None:
    checkpoint = of_matrix("gptq", matrix(torch.randn(16, 64)), tmp_path)
    assert checkpoint.num_parameters == 16 * 64
    assert checkpoint.total_bytes == 16 * 64 // 2 + 2 * 16 * (2 + 0.5) + 4 * 64
