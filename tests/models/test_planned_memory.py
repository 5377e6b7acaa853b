"""The planned bytes of weights are those of the packed model, for each format."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider import kernels
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.models.loading import resolve_dtype
from outrider.models.memory import Demand, planned_dtype
from tests.models.checkpoints.packed.packers import KINDS, pack_checkpoint, settings_of
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import from_checkpoint

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())

SIZES: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
CPU = torch.device("cpu")


def check(path: Path, asked: str) -> None:
    """Compare the plan with all tensors that the packed model keeps."""
    checkpoint = open_checkpoint(path)
    planned = planned_dtype(checkpoint, asked, resolve_dtype(asked, CPU))
    format = FORMATS["stored" if planned is None else asked]
    assert planned == format.dtype
    weights = Demand.of_checkpoint("target", checkpoint, planned).weights
    packed = NativeDecoder.load(checkpoint, dtype=format.dtype, threads=1)._parts.packed
    kept = sum(tensor.nbytes for tensor in packed.kept if isinstance(tensor, torch.Tensor))
    assert abs(weights / kept - 1) < 0.05, (weights, kept)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("asked", FORMATS)
def test_float_checkpoints(asked: str, tied: bool, tmp_path: Path) -> None:
    check(make_checkpoint(tmp_path, "qwen3", tie_word_embeddings=tied, **SIZES), asked)


@pytest.mark.parametrize("asked", ["auto", "stored", "int8", "int4", "bfloat16"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q5_0"])
def test_gguf_files(kind: str, asked: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3", **SIZES)
    check(from_checkpoint(path, {}, kind).write(tmp_path / "m.gguf"), asked)


SYMMETRIC = {kind: {"symmetric": True} for kind in ("gptq", "compressed")}
MADE = [(kind, {}) for kind in KINDS] + list(SYMMETRIC.items())


@pytest.mark.parametrize("asked", ["auto", "stored", "int8", "int4"])
@pytest.mark.parametrize(("kind", "how"), MADE)
def test_checkpoints_of_other_makers(
    kind: str, how: dict[str, Any], asked: str, tmp_path: Path
) -> None:
    source = make_checkpoint(tmp_path / "source", **SIZES)
    settings = settings_of(kind)
    if kind == "gptq":
        settings["sym"] = bool(how)
    if kind == "compressed":
        settings["config_groups"]["group_0"]["weights"]["symmetric"] = bool(how)
    packed, _ = pack_checkpoint(source, tmp_path, kind, settings, **how)
    tensors = load_file(packed / "model.safetensors")
    halves = {name: t.half() for name, t in tensors.items() if name.endswith("_scale")}
    save_file(tensors | halves, packed / "model.safetensors", {"format": "pt"})
    check(packed, asked)
