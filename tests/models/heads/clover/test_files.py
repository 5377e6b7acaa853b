"""Files of Clover heads (Clover-2, arXiv 2408.00264)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from outrider.core.errors import CheckpointError, OptionError, StrategyError, VocabularyError
from outrider.models.heads.clover.config import CloverConfig
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.verifying import check_verifier
from outrider.models.heads.formats.writing import write_head
from outrider.models.heads.loading import run_head
from outrider.models.llama.decoder import Decoder
from outrider.models.quantization.grouped import quantize_groups
from tests.models.heads.clover.setups import SHAPES, clover_config, clover_numbers, clover_rig
from tests.models.heads.formats.setups import LAYER as TINY
from tests.models.heads.setups import LAYERS, make_target, random_text

pytestmark = pytest.mark.method("clover")

TEXT = random_text(12)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


def shape(target: Path, name: str = "clover") -> CloverConfig:
    return clover_config(Decoder.load(target).config, **SHAPES[name])


def written(
    folder: Path, target: Path, name: str = "clover", bits: int | None = None
) -> CloverConfig:
    config = shape(target, name)
    verifier = Verifier(name_or_path="maker/target", tokenizer="abc")
    numbers = clover_numbers(config)
    write_head(folder, config, numbers, verifier, bits=bits, card="# Card\n", trained={"steps": 3})
    return config


@pytest.mark.parametrize("bits", [8, None])
@pytest.mark.parametrize("name", list(SHAPES))
def test_heads_are_read_as_they_were_written(
    tmp_path: Path, target: Path, name: str, bits: int | None
) -> None:
    config = written(tmp_path, target, name, bits)
    found = read_head(tmp_path)
    assert isinstance(found.config, CloverConfig) and found.format == "clover"
    for field in ("layers", "regressive", "heads", "states", "target_width", "draft_vocab"):
        assert getattr(found.config, field) == getattr(config, field)
    assert found.config.layer.num_heads == config.layer.num_heads
    assert found.verifier.tokenizer == "abc" and found.trained == {"steps": 3}
    tensors = clover_numbers(config)
    assert set(found.tensors) == set(tensors)
    for own, tensor in tensors.items():
        packed = bits == 8 and tensor.ndim == 2
        expected = quantize_groups(tensor).dequantize() if packed else tensor
        assert torch.equal(found.tensors[own], expected), own


def test_a_read_head_drafts_as_the_one_that_was_written(tmp_path: Path, target: Path) -> None:
    written(tmp_path, target)
    file, rig = read_head(tmp_path), clover_rig(target)
    pair = run_head(file.config, file.tensors, Decoder.load(target, dtype=torch.float32), name="h")
    again = clover_rig(target)
    object.__setattr__(again, "head", pair.head)
    object.__setattr__(again, "target", pair.target)
    assert torch.equal(again.rows(again.follows(TEXT), (5, 9)), rig.rows(rig.follows(TEXT), (5, 9)))


def line(error: Any) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_cannot_be_written(tmp_path: Path, target: Path) -> None:
    config = shape(target)
    numbers = clover_numbers(config)
    with pytest.raises(OptionError) as error:
        write_head(tmp_path, config, numbers, Verifier(), bits=4, card="")
    assert "Clover heads are not written with 4 bits" in line(error)
    broken = numbers | {"step.value.weight": torch.full((32, 32), torch.nan)}
    with pytest.raises(CheckpointError, match=r"step\.value\.weight"):
        write_head(tmp_path, config, broken, Verifier(), bits=8, card="")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clover_layers": None}, "clover_layers"),
        ({"clover_layers": -1}, "clover_layers"),
        ({"clover_regressive": "yes"}, "clover_regressive"),
        ({"clover_heads": 0}, "clover_heads"),
        ({"clover_layers": 3}, "lacks tensor layers.2"),
        ({"clover_layers": 1}, "unexpected tensor layers.1"),
        ({"clover_regressive": False}, "unexpected tensor later.bias"),
        ({"eagle_aux_hidden_state_layer_ids": [2, 4]}, "expected the last state"),
        ({"transformer_layer_config": None}, "transformer_layer_config"),
    ],
)
def test_faulty_files(tmp_path: Path, target: Path, changes: dict[str, Any], message: str) -> None:
    written(tmp_path, target)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError) as error:
        read_head(tmp_path)
    assert message in line(error)


def test_a_head_of_another_target(tmp_path: Path, target: Path, tmp_path_factory: Any) -> None:
    written(tmp_path, target)
    file = read_head(tmp_path)
    check_verifier(file, Decoder.load(target))
    make = tmp_path_factory.mktemp
    deeper = Decoder.load(make_target(make("deeper"), num_hidden_layers=LAYERS + 1))
    with pytest.raises(StrategyError, match=f"reads state {LAYERS}"):
        check_verifier(file, deeper)
    larger = Decoder.load(make_target(make("larger"), vocab_size=60))
    with pytest.raises(VocabularyError, match="48 tokens"):
        check_verifier(file, larger)


def test_files_of_the_official_code_are_refused(tmp_path: Path) -> None:
    """They are for states that no runner returns."""
    names = (
        "clover_head_mlp_rnn.q.weight",
        "layers.0.self_attn.q_proj.weight",
        "clover_norm.weight",
    )
    save_file({name: torch.zeros(16, 16) for name in names}, tmp_path / "model.safetensors")
    clover = {"num_heads": 5, "num_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"clover": clover}))
    with pytest.raises(CheckpointError) as error:
        read_head(tmp_path)
    assert "holds no draft head" in line(error)
