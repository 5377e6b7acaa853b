"""Medusa heads in files: the published format, and our own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from outrider.core.errors import CheckpointError, OutriderError
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.medusa import WEIGHTS
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.writing import write_head
from outrider.models.heads.medusa.config import RANKS, MedusaConfig
from outrider.models.heads.medusa.module import MedusaModule
from outrider.models.llama.decoder import Decoder
from tests.models.heads.formats.last_state import check_last_state
from tests.models.heads.setups import LAYERS, make_target

pytestmark = pytest.mark.method("medusa")

WIDTH, VOCAB = 16, 40
CONFIG = {
    "medusa_num_heads": 2,  # as published: fewer than the file has
    "medusa_num_layers": 1,
    "base_model_name_or_path": "maker/target",
}


def published(heads: int = 3, blocks: int = 1, *, shared: bool = False) -> dict[str, Tensor]:
    """Tensors by their published names; with `shared`, later blocks are not stored."""
    drawn = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    for head in range(heads):
        for block in range(1 if shared else blocks):
            name = f"{head}.{block}.linear"
            tensors[f"{name}.weight"] = torch.randn(WIDTH, WIDTH, generator=drawn)
            tensors[f"{name}.bias"] = torch.randn(WIDTH, generator=drawn)
        tensors[f"{head}.{blocks}.weight"] = torch.randn(VOCAB, WIDTH, generator=drawn)
    return tensors


def put(folder: Path, tensors: dict[str, Tensor], file: str = WEIGHTS, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    save_file(tensors, folder / file)
    return folder


def logits(folder: Path, state: Tensor) -> Tensor:
    file = read_head(folder, layers=6)
    assert isinstance(file.config, MedusaConfig)
    module = MedusaModule(file.config, file.tensors, torch.empty(0, WIDTH))
    return module.all_logits(state)


def block(tensors: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    return h + torch.nn.functional.silu(tensors[f"{name}.weight"] @ h + tensors[f"{name}.bias"])


@pytest.mark.parametrize("prefix", ["", "medusa_head."])
@pytest.mark.parametrize("file", [WEIGHTS, "model.safetensors"])
def test_the_published_format(tmp_path: Path, prefix: str, file: str) -> None:
    """Heads are counted by their tensors."""
    tensors = published()
    put(tmp_path, {prefix + name: one for name, one in tensors.items()}, file)
    state = torch.randn(WIDTH)
    found = logits(tmp_path, state)
    assert found.shape == (3, VOCAB)
    for head in range(3):
        expected = tensors[f"{head}.1.weight"] @ block(tensors, f"{head}.0.linear", state)
        assert torch.allclose(found[head], expected, atol=1e-4)
    read = read_head(tmp_path, layers=6)
    assert read.format == "medusa" and read.config.states == (6,)
    assert read.verifier.name_or_path == "maker/target" and read.config.draft_vocab == VOCAB


def test_one_block_that_runs_twice(tmp_path: Path) -> None:
    """The reference multiplies a list: stored once or twice, both layers are the same block."""
    once = published(blocks=2, shared=True)
    twice = dict(once)
    for head in range(3):
        for part in ("weight", "bias"):
            twice[f"{head}.1.linear.{part}"] = once[f"{head}.0.linear.{part}"].clone()
    state = torch.randn(WIDTH)
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    ours = logits(put(tmp_path / "once", once, medusa_num_layers=2), state)
    assert torch.equal(ours, logits(put(tmp_path / "twice", twice, medusa_num_layers=2), state))
    name = "1.0.linear"
    expected = once["1.2.weight"] @ block(once, name, block(once, name, state))
    assert torch.allclose(ours[1], expected, atol=1e-3)


def test_two_blocks_that_differ_are_two(tmp_path: Path) -> None:
    tensors, state = published(blocks=2), torch.randn(WIDTH)
    found = logits(put(tmp_path, tensors), state)
    expected = tensors["0.2.weight"] @ block(
        tensors, "0.1.linear", block(tensors, "0.0.linear", state)
    )
    assert torch.allclose(found[0], expected, atol=1e-3)


def change(name: str, one: Tensor | None) -> dict[str, Tensor]:
    tensors = published() | ({} if one is None else {name: one})
    return {key: value for key, value in tensors.items() if key != name or one is not None}


DAMAGED: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
    "no rows": (change("1.1.weight", None), {}, r"heads \[0, 2\] after"),
    "no block": (change("2.0.linear.weight", None), {}, "lacks tensor heads.2.blocks.0.weight"),
    "shape": (change("2.1.weight", torch.ones(VOCAB, 3)), {}, "heads.2.rows.weight .* has shape"),
    "axes": (change("0.1.weight", torch.ones(VOCAB)), {}, "expected a matrix"),
    "NaN": (change("0.1.weight", torch.full((VOCAB, WIDTH), torch.nan)), {}, "NaN"),
    "number": (published(), {"medusa_num_heads": -1}, "medusa_num_heads -1"),
    "name": (published(), {"base_model_name_or_path": 3}, "base_model_name_or_path 3"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_give_one_line(tmp_path: Path, case: str) -> None:
    tensors, config, message = DAMAGED[case]
    with pytest.raises(OutriderError, match=message) as caught:
        read_head(put(tmp_path, tensors, **config), layers=6)
    assert "\n" not in str(caught.value)


def test_the_target_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not name the last state"):
        read_head(put(tmp_path, published()))
    (tmp_path / WEIGHTS).rename(tmp_path / "medusa_lm_head.pt")
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_head(tmp_path, layers=6)


def ours(**changes: Any) -> tuple[MedusaConfig, dict[str, Tensor]]:
    options: dict[str, Any] = {
        "kind": HeadKind.MEDUSA,
        "states": (6,),
        "target_width": WIDTH,
        "target_vocab": VOCAB,
        "heads": 2,
        "drafts": 12,
    }
    config = MedusaConfig(**options | changes)
    tensors = {name: torch.randn(shape) for name, shape in config.shapes().items()}
    tensors["ids"] = torch.arange(12, dtype=torch.int32) * 3
    return config, tensors | {"accuracies": torch.rand(2, RANKS)}


@pytest.mark.parametrize("bits", [None, 8])
def test_what_is_written_is_read(tmp_path: Path, bits: int | None) -> None:
    config, tensors = ours()
    target = Verifier(name_or_path="maker/target", architectures=("A",), tokenizer="abc")
    write_head(tmp_path, config, tensors, target, bits=bits, card="# A", trained={"prompts": 3})
    file = read_head(tmp_path)
    assert file.config == config and file.trained == {"prompts": 3}
    assert file.verifier.tokenizer == "abc" and file.verifier.vocab_size == VOCAB
    for name, tensor in tensors.items():
        found = file.tensors[name].float()
        off = float((found - tensor.float()).abs().max())
        assert off < (0.05 if bits else 1e-9), name
    assert ("heads.0.mix.weight" in file.grouped) is (bits is not None)
    assert torch.equal(file.tensors["accuracies"], tensors["accuracies"])


OWN_DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "heads": ({"medusa_num_layers": 3}, "lacks tensor heads.0.blocks.1"),
    "no heads": ({"medusa_num_heads": None}, "medusa_num_heads"),
    "states": ({"eagle_aux_hidden_state_layer_ids": [1, 2]}, "expected the last state"),
    "ids": ({"vocab_size": 20}, "gives id 21, expected 0 to 19"),
}


@pytest.mark.parametrize("case", OWN_DAMAGED)
def test_damaged_files_of_our_own_give_one_line(tmp_path: Path, case: str) -> None:
    changes, message = OWN_DAMAGED[case]
    write_head(tmp_path, *ours(), Verifier(), bits=None, card="")
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(OutriderError, match=message) as caught:
        read_head(tmp_path)
    assert "\n" not in str(caught.value)
    assert "accuracies" in load_file(tmp_path / "model.safetensors")


def test_four_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutriderError, match="Medusa heads are not written with 4 bits") as caught:
        write_head(tmp_path / "head", *ours(), Verifier(), bits=4, card="")
    assert "\n" not in str(caught.value) and not (tmp_path / "head").exists()


def test_heads_of_another_target_are_refused(tmp_path: Path) -> None:
    target = Decoder.load(make_target(tmp_path / "target"), dtype=torch.float32)
    assert target.hidden_states is not None
    sizes = {"target_width": target.hidden_states.width, "target_vocab": target.info.vocab_size}
    check_last_state(tmp_path / "head", target, LAYERS, lambda states: ours(states=states, **sizes))
