"""Checkpoints and readings that are refused, each in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from outrider.core.errors import CheckpointError, ContextError, OptionError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.denoisers.loading import is_denoiser, load_denoiser
from outrider.models.denoisers.runner import MaskedDenoiser
from outrider.protocols import Reading
from tests.models.denoisers.reference import DREAM, LLADA, OWN, text, written


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MaskedDenoiser:
    return load_denoiser(written(tmp_path_factory.mktemp("own"), OWN))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("kinds")
    kinds = {"own": OWN, "llada": LLADA, "dream": DREAM}
    return {name: written(place / name, config) for name, config in kinds.items()}


def edited(folder: Path, place: Path, **fields: JsonValue) -> Path:
    """A copy whose config.json has other fields; None removes one."""
    shutil.copytree(folder, place)
    config = json.loads((folder / "config.json").read_text()) | fields
    kept = {name: value for name, value in config.items() if value is not None}
    (place / "config.json").write_text(json.dumps(kept))
    return place


REFUSED: list[tuple[str, dict[str, JsonValue], str]] = [
    ("own", {"mask_token_id": None}, "has no mask_token_id"),
    ("own", {"mask_token_id": 29}, "mask_token_id 29, but 29 tokens"),
    ("own", {"mask_token_id": -1}, "mask_token_id -1"),
    ("own", {"mask_token_id": "x"}, "mask_token_id 'x'"),
    ("own", {"shifted_logits": 1}, "shifted_logits 1"),
    ("own", {"model_type": "llama"}, "'llama' is no masked denoiser"),
    ("own", {"model_type": None}, "None is no masked denoiser"),
    ("own", {"hidden_act": "mish"}, "hidden_act 'mish'"),
    ("own", {"num_hidden_layers": 3}, "lacks tensor model.layers.2"),
    ("dream", {"mask_token_id": None}, "mask_token_id 151666, but 29 tokens"),
    ("dream", {"use_sliding_window": True, "max_window_layers": 0}, "sliding windows"),
    ("llada", {"mask_token_id": None}, "mask_token_id 126336, but 32 tokens"),
    ("llada", {"block_type": "sequential"}, "block_type 'sequential'"),
    ("llada", {"block_type": None}, "block_type 'sequential'"),
    ("llada", {"rope": None}, "rope False"),
    ("llada", {"alibi": True}, "alibi True"),
    ("llada", {"layer_norm_type": "default"}, "layer_norm_type 'default'"),
    ("llada", {"attention_layer_norm": True}, "attention_layer_norm True"),
    ("llada", {"include_bias": True}, "include_bias True"),
    ("llada", {"bias_for_layer_norm": True}, "bias_for_layer_norm"),
    ("llada", {"block_group_size": 2}, "block_group_size 2"),
    ("llada", {"activation_type": "swiglu"}, "'swiglu' is not supported"),
    ("llada", {"d_model": None}, "d_model None"),
    ("llada", {"n_heads": None}, "n_heads None"),
    ("llada", {"mlp_hidden_size": "wide"}, "mlp_hidden_size 'wide'"),
    ("llada", {"embedding_size": None}, r"shape \[32, 16\], config.json implies \[29, 16\]"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED)
def test_a_checkpoint_is_refused_in_one_line(
    folders: dict[str, Path],
    tmp_path: Path,
    kind: str,
    fields: dict[str, JsonValue],
    message: str,
) -> None:
    folder = edited(folders[kind], tmp_path / "copy", **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_denoiser(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_denoiser_is_not_recognised(folders: dict[str, Path], tmp_path: Path) -> None:
    assert all(is_denoiser(folder) for folder in folders.values())
    assert not is_denoiser(edited(folders["own"], tmp_path / "llama", model_type="llama"))
    assert not is_denoiser(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    assert not is_denoiser(tmp_path)
    with pytest.raises(UnsupportedCheckpointError):
        load_denoiser(tmp_path / "llama")


def test_options_are_checked(folders: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="threads is 0"):
        load_denoiser(folders["own"], threads=0)
    for dtype in ("int8", "int4"):
        with pytest.raises(OptionError, match=f"dtype {dtype} is not available"):
            load_denoiser(folders["own"], dtype=dtype)
    with pytest.raises(OptionError, match="unknown dtype 'float31'"):
        load_denoiser(folders["own"], dtype="float31")
    assert load_denoiser(folders["own"], dtype="bfloat16").info.dtype == torch.bfloat16


def test_a_text_beyond_the_window_is_refused(model: MaskedDenoiser) -> None:
    model.read([Reading(ids=text(24), want=np.array([23]))])
    with pytest.raises(ContextError, match="25 tokens does not fit into the 24 positions"):
        model.read([Reading(ids=text(25), want=np.array([0]))])


@pytest.mark.parametrize("token", [-1, 29])
def test_ids_outside_the_vocabulary_are_refused(model: MaskedDenoiser, token: int) -> None:
    ids = text(6)
    ids[2] = token
    with pytest.raises(ValueError, match="outside the 29 tokens"):
        model.read([Reading(ids=ids, want=np.array([0]))])


POSITIONS: list[tuple[dict[str, list[int]], str]] = [
    ({"want": [6]}, "want holds positions outside"),
    ({"want": [-1]}, "want holds positions outside"),
    ({"want": [1, 1]}, "want is not ascending"),
    ({"want": [2, 1]}, "want is not ascending"),
    ({"want": [1], "rows": [0, 2]}, "want holds positions that are not among rows"),
    ({"want": [0], "rows": [0, 2], "keep": [1]}, "keep holds positions that are not among rows"),
    ({"want": [0], "keep": [2, 7]}, "keep holds positions outside"),
]


@pytest.mark.parametrize(("given", "message"), POSITIONS)
def test_positions_are_checked(
    model: MaskedDenoiser, given: dict[str, list[int]], message: str
) -> None:
    arrays = {name: np.array(positions) for name, positions in given.items()}
    with pytest.raises(ValueError, match=message):
        model.read([Reading(ids=text(6), store=model.new_store(6), **arrays)])


def test_stores_are_checked(model: MaskedDenoiser, folders: dict[str, Path]) -> None:
    ids, one, store = text(6), np.array([0]), model.new_store(6)
    other = load_denoiser(folders["own"]).new_store(6)
    with pytest.raises(ValueError, match="not one of"):
        model.read([Reading(ids=ids, want=one, store=other)])
    with pytest.raises(ValueError, match="a store for 5 positions, and a text of 6"):
        model.read([Reading(ids=ids, want=one, store=model.new_store(5))])
    with pytest.raises(ValueError, match="keep needs a store"):
        model.read([Reading(ids=ids, want=one, keep=one)])
    keeps = Reading(ids=ids, want=one, store=store, keep=one)
    with pytest.raises(ValueError, match="a store that another reading uses"):
        model.read([keeps, Reading(ids=ids, want=one, store=store)])
    assert store.positions.tolist() == []
    with pytest.raises(ValueError, match="-1 positions"):
        model.new_store(-1)
