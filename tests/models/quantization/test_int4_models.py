"""`--dtype int4`: the compiled runner computes with the weights that `quantize_int4` returns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import outrider
from outrider import kernels
from outrider.models.cpu.encoding import INT4
from outrider.models.cpu.native import NativeDecoder
from outrider.models.loading import load_model
from outrider.models.quantization.int4 import quantize_int4
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import all_logits, random_ids

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96}
TEXT = random_ids(24)

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())


def test_a_model_in_int4_is_the_model_of_the_rounded_weights(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, **SIZES)
    model = load_model(path, dtype="int4", device="cpu", threads=1)
    assert isinstance(model, NativeDecoder) and model.dtype == INT4
    found = all_logits(model, TEXT)
    tensors = load_file(path / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight") or name == "lm_head.weight":
            tensors[name] = quantize_int4(tensor).dequantize()
    exact = all_logits(NativeDecoder.load(path, dtype=torch.float32, threads=1), TEXT)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    rounded = all_logits(NativeDecoder.load(path, dtype=torch.float32, threads=1), TEXT)
    activations = float((found - rounded).norm() / rounded.norm())
    assert activations < 0.04
    assert activations < 0.5 * float((found - exact).norm() / exact.norm())


def test_drafted_text_is_the_undrafted_one(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, tokenizer=True, **SIZES)
    ways: tuple[dict[str, Any], ...] = ({"mode": "none"}, {"drafter": "lookup"})
    plain, drafted = (
        outrider.load(path, dtype="int4", device="cpu", threads=1, **way).generate(
            "one two one two", max_new_tokens=32, ignore_eos=True
        )
        for way in ways
    )
    assert drafted.token_ids == plain.token_ids and len(plain.token_ids) == 32
