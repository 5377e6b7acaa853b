"""Blocks of GGUF files in panels: the weights stay those of the file."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider import kernels
from outrider.core.errors import CheckpointError
from outrider.kernels import library
from outrider.kernels.layout import Model
from outrider.models.checkpoints.checkpoint import load_tensors
from outrider.models.checkpoints.gguf.header import Entry
from outrider.models.checkpoints.gguf.tensors import GgufTensor
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu import repacking
from outrider.models.cpu.arena import Arena
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.packed_weights import Packer
from outrider.models.cpu.repacking import empty_panels
from outrider.models.quantization.blocks import BLOCK_FORMATS
from outrider.models.quantization.stored_blocks import NUMBERS, REPACKED, Blocks, join_blocks
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import from_checkpoint
from tests.models.setups.reference import close

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())

INPUTS = 512
BIG: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


def in_a_file(file: Path, kind: str, outputs: int, seed: int = 0) -> GgufTensor:
    """Return a tensor of random blocks; its factors are finite."""
    known = BLOCK_FORMATS[NUMBERS[kind]]
    generator = np.random.default_rng(seed)
    shape = (outputs * INPUTS // known.weights, known.nbytes)
    blocks = generator.integers(0, 256, shape, dtype=np.uint8)
    for at in range(known.nbytes - 1):
        high = blocks[:, at + 1]
        high[(high & 0x7C) == 0x7C] &= 0xBF
    before = bytes(7 + 32 * seed)
    file.write_bytes(before + blocks.tobytes())
    entry = Entry("blk.0.ffn_up.weight", known, (outputs, INPUTS), len(before), blocks.size)
    return GgufTensor(file=file, entry=entry)


def blocks_of(tensor: GgufTensor) -> Blocks:
    found = tensor.grouped()
    assert found is not None
    return found


def unpacked(part: Blocks) -> np.ndarray:
    """Return the weights that the kernels read."""
    packer = Packer.__new__(Packer)
    packer.arena, packer.kept, packer._offset = Arena(), [], 0
    matrix = packer.matrix(part)
    assert matrix.panels * 16 >= part.shape[0] > matrix.panels * 16 - 32
    out = np.empty(part.shape, dtype=np.float32)
    tokens = np.arange(len(out), dtype=np.int32)
    model, loaded = Model(hidden=INPUTS, embed=matrix, embed_scale=1.0), library()
    assert loaded is not None
    loaded.outrider_embed(ctypes.byref(model), len(out), tokens.ctypes.data, out.ctypes.data)
    return out


@pytest.mark.parametrize("outputs", [1, 32, 100])
@pytest.mark.parametrize("kind", REPACKED)
def test_the_weights_are_those_of_the_file(kind: str, outputs: int, tmp_path: Path) -> None:
    tensor = in_a_file(tmp_path / "w", kind, outputs)
    part = blocks_of(tensor)
    np.testing.assert_array_equal(unpacked(part), tensor.read().numpy())
    np.testing.assert_array_equal(part.dequantize().numpy(), tensor.read().numpy())
    panels = empty_panels(part, arena := Arena())
    assert tensor.packed_bytes == arena.nbytes
    assert panels.data.numel() <= 1.03 * tensor.entry.nbytes + 32 * tensor.entry.nbytes / outputs


def test_the_weights_are_those_of_the_gguf_package(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    for kind in REPACKED:
        tensor = in_a_file(tmp_path / kind, kind, 64, seed=1)
        raw = np.fromfile(tensor.file, np.uint8, offset=tensor.entry.offset).reshape(64, -1)
        theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
        np.testing.assert_array_equal(unpacked(blocks_of(tensor)), theirs)


@pytest.mark.parametrize("kind", REPACKED)
def test_rows_of_several_tensors_in_any_order(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are released after each step, and read again."""
    monkeypatch.setattr(repacking, "_STEP_BYTES", 1)
    tensors = [in_a_file(tmp_path / str(i), kind, n, seed=i) for i, n in enumerate((40, 70))]
    both = join_blocks([blocks_of(tensor) for tensor in tensors])
    assert both is not None
    order = torch.randperm(111) - 1  # -1 is a row of zeros
    weights = torch.cat([*(tensor.read() for tensor in tensors), torch.zeros(1, INPUTS)])[order]
    np.testing.assert_array_equal(unpacked(both.reordered(order)), weights.numpy())
    np.testing.assert_array_equal(both.reordered(order).dequantize().numpy(), weights.numpy())


def test_rows_that_llama_cpp_has_reordered(tmp_path: Path) -> None:
    whole = in_a_file(tmp_path / "w", "Q6_K", 96)
    turned = GgufTensor(file=whole.file, entry=whole.entry, heads=3)
    np.testing.assert_array_equal(unpacked(blocks_of(turned)), turned.read().numpy())
    assert not torch.equal(turned.read(), whole.read())


def test_other_formats_are_not_joined(tmp_path: Path) -> None:
    parts = [blocks_of(in_a_file(tmp_path / kind, kind, 32)) for kind in ("Q4_K", "Q6_K")]
    assert join_blocks(parts) is None


PLACES = [("Q8_0", 0), ("Q4_0", 0), ("Q4_1", 0), ("Q4_1", 2), ("Q4_K", 0), ("Q4_K", 2)]


@pytest.mark.parametrize("brief", [0x7C00, 0xFE01])
@pytest.mark.parametrize(("kind", "place"), [*PLACES, ("Q6_K", 208)])
def test_factors_that_are_not_finite_are_refused(
    kind: str, place: int, brief: int, tmp_path: Path
) -> None:
    tensor = in_a_file(tmp_path / "w", kind, 50)
    last = tensor.entry.offset + tensor.entry.nbytes - tensor.entry.format.nbytes
    with tensor.file.open("r+b") as stream:
        stream.seek(last + place)
        stream.write(brief.to_bytes(2, "little"))
    part: Any = blocks_of(tensor)
    with pytest.raises(CheckpointError, match=r"w holds .* values in blk.0.ffn_up.weight"):
        unpacked(part)


@pytest.mark.parametrize("kind", REPACKED)
def test_products_are_those_of_rounded_activations(kind: str, tmp_path: Path) -> None:
    """Each group of 32 activations is rounded to 255 steps; everything else is exact."""
    path = make_checkpoint(tmp_path / "model", "qwen3", **BIG)
    file = from_checkpoint(path, {"output": kind}).write(tmp_path / "model.gguf")
    model = NativeDecoder.load(file, dtype=None, threads=1)
    checkpoint = open_checkpoint(file)
    names = ["lm_head.weight", "model.norm.weight"]
    weight, norm = load_tensors(checkpoint, names, torch.float64).values()
    states = torch.randn(9, weight.shape[1], generator=torch.Generator().manual_seed(0))
    normed = torch.nn.functional.rms_norm(states, norm.shape, norm.float(), model.config.norm_eps)
    groups = normed.view(9, -1, 32)
    largest = groups.abs().amax(dim=2, keepdim=True)
    rounded = (groups * (127 / largest)).round().double() * (largest.double() / 127)
    expected = rounded.view(9, -1) @ weight.T
    for rows in (1, 2, 3, 9):
        close(model.read_out(states[:rows]).double(), expected[:rows], tolerance=1e-4)
