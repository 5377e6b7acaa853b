"""Adapters whose files are hostile, and checkpoints whose names lack the prefix."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.limits import VARIABLE
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.lora import Adapter
from outrider.models.loading import load_model
from tests.fuzz.checkpoints.mutations import linked, make_original
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import all_logits, random_ids


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_original(tmp_path_factory.mktemp("original"))


@pytest.fixture
def adapter(original: Path, tmp_path: Path) -> Path:
    linked(original, tmp_path)
    return tmp_path / "adapter"


def settings(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    content = json.loads(file.read_text()) | changes
    file.unlink()
    file.write_text(json.dumps(content))


def test_a_pattern_that_backtracks_is_ended(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "pattern_seconds=1")
    settings(adapter, alpha_pattern={"(([a-z_.0-9])+.?)+[A-Z]": 3})
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json holds a regular expression"):
        Adapter.load(adapter)
    assert time.monotonic() - start < 5


def test_the_first_pattern_wins(adapter: Path) -> None:
    settings(adapter, alpha_pattern={"k_proj": 1, "self_attn.q_proj": 6, "q_proj": 8})
    [update] = Adapter.load(adapter).updates.values()
    assert update.scale == 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_blamed_on_the_adapter(adapter: Path, value: float) -> None:
    file = adapter / "adapter_model.safetensors"
    matrices = load_file(file)
    name = next(key for key in matrices if "lora_B" in key)
    matrices[name][2, 1] = value
    file.unlink()
    save_file(matrices, file)
    with pytest.raises(CheckpointError) as caught:
        load_model(adapter.parent / "model", dtype="float32", device="cpu", adapter=adapter)
    assert str(file) in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("alpha", [1e300, 10**299])
def test_a_scale_that_overflows_is_blamed_on_the_adapter(adapter: Path, alpha: float) -> None:
    settings(adapter, lora_alpha=alpha)
    with pytest.raises(CheckpointError, match=r"adapter.*(q_proj|lora_alpha)"):
        load_model(adapter.parent / "model", dtype="float32", device="cpu", adapter=adapter)


class TestBaseModels:
    """Checkpoints that were saved from `LlamaModel`: no `model.` before the names, no head."""

    @staticmethod
    def stripped(path: Path, *, tied: bool) -> tuple[Path, Path]:
        whole = make_checkpoint(path / "whole", tie_word_embeddings=tied)
        base = path / "base"
        base.mkdir()
        weights = load_file(whole / "model.safetensors")
        weights.pop("lm_head.weight", None)
        plain = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        save_file(plain, base / "model.safetensors", {"format": "pt"})
        config = json.loads((whole / "config.json").read_text())
        config["architectures"] = ["LlamaModel"]
        (base / "config.json").write_text(json.dumps(config))
        return whole, base

    def test_tied_embeddings_are_the_head(self, tmp_path: Path) -> None:
        whole, base = self.stripped(tmp_path, tied=True)
        ids = random_ids(9)
        found, expected = (
            load_model(path, dtype="float32", device="cpu") for path in (base, whole)
        )
        assert type(found) is type(expected)
        assert torch.equal(all_logits(found, ids), all_logits(expected, ids))

    def test_a_missing_head_is_named_with_a_hint(self, tmp_path: Path) -> None:
        _, base = self.stripped(tmp_path, tied=False)
        with pytest.raises(CheckpointError, match=r"lacks tensor lm_head\.weight.*tie_word"):
            load_model(base, dtype="float32", device="cpu")

    def test_an_adapter_fits(self, tmp_path: Path) -> None:
        whole, base = self.stripped(tmp_path, tied=True)
        assert open_checkpoint(base).tensors.keys() == open_checkpoint(whole).tensors.keys()
