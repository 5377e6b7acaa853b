"""`outrider train coprocessor` (arXiv 2412.17747) as a whole: files, progress, going on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from outrider.core.errors import CheckpointError, OptionError
from outrider.models.latents.coprocessor import Coprocessor
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.lora import Adapter
from outrider.training.coprocessor.augmenter import Augmenter
from outrider.training.coprocessor.config import CoprocessorRecipe
from outrider.training.coprocessor.fit import (
    held_out_losses,
    held_out_traces,
    without_latents,
)
from outrider.training.coprocessor.train import train_coprocessor, train_on
from outrider.training.core.config import read_table
from outrider.training.core.loop import StopSignal, TrainingStopped
from outrider.training.core.state import read_json, save_tensors, write_json
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("augmented"), pytest.mark.usefixtures("unchecked")]

RECIPE = """
name = "micro"
target = "{target}"
latents = 2
ahead = 4
points = 3
rank = 2
lora_alpha = 4.0
held_out = 2
threads = 1

[stage]
tokens = 1280
sequence_length = 32
batch = 4
micro_batch = 2
learning_rate = 2e-2

[corpus]
tokens = 3000
heldout_tokens = 256

[[corpus.sources]]
name = "stories"
file = "stories.jsonl"
format = "text"
licence = "MIT"

[[corpus.heldout]]
name = "stories"
file = "heldout.jsonl"
format = "text"
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("train") / "small", "llama", tokenizer=True)


@pytest.fixture
def config(source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "micro.toml"
    path.write_text(RECIPE.format(target=source))
    return path


class Stopping(StopSignal):
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    @property
    def asked(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.left -= 1
        return self.left < 0

    @asked.setter
    def asked(self, value: bool) -> None:
        del value


def test_a_coprocessor_is_trained_written_and_read(
    config: Path, source: Path, data: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    files = train_coprocessor(config, data=data, out=tmp_path / "run", report=said.append)
    read = Coprocessor.read(files)
    assert read.soft.shape == (2, 32) and read.scale > 0
    target = Decoder.load(source)
    read.check_made_for(target.info.fingerprint, "small")
    adapter = Adapter.load(files)
    assert len(adapter.updates) == 2 * 7
    assert any(bool(update.up.any()) for update in adapter.updates.values())
    losses = json.loads(json.dumps(read.facts))["losses"]["stories"]
    assert losses["with"] < losses["without"] - 0.1  # random weights: there is much to learn
    card = (files / "README.md").read_text()
    assert "2 latents" in card and "MIT" in card
    assert any("stories: loss of the next 4 tokens" in line for line in said)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics[-1])["step"] == 10 and "heldout/stories" in metrics[-1]
    again = train_coprocessor(config, data=data, out=tmp_path / "run", report=said.append)
    assert torch.equal(Coprocessor.read(again).soft, read.soft)  # nothing is left to train


def test_an_interrupted_training_goes_on(
    config: Path, source: Path, data: Path, tmp_path: Path
) -> None:
    """Stopped after four steps and begun again, it ends with the same numbers."""
    recipe = read_table(config, CoprocessorRecipe)
    whole = train_coprocessor(config, data=data, out=tmp_path / "whole", report=lambda line: None)
    corpus = tmp_path / "whole" / "corpus"

    def go(stop: StopSignal) -> Augmenter:
        places = tmp_path / "parts", tmp_path / "parts" / "micro"
        return train_on(recipe, Decoder.load(source), corpus, *places, stop, lambda line: None)

    (tmp_path / "parts").mkdir()
    with pytest.raises(TrainingStopped):
        go(Stopping(3))
    go(Stopping(10**6))
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10]
    one, other = Coprocessor.read(whole), Coprocessor.read(tmp_path / "parts" / "micro")
    torch.testing.assert_close(one.soft, other.soft, rtol=1e-5, atol=1e-6)
    assert one.scale == pytest.approx(other.scale, rel=1e-5)


def test_held_out_losses_are_those_of_the_traces(
    config: Path, source: Path, tmp_path: Path
) -> None:
    recipe = read_table(config, CoprocessorRecipe)
    np.save(tmp_path / "heldout.a.npy", np.arange(200, dtype=np.uint16))
    np.save(tmp_path / "heldout.b.npy", np.arange(40, dtype=np.uint16))
    found = held_out_traces(tmp_path, recipe)
    assert {name: len(texts) for name, texts in found.items()} == {"a": 2, "b": 1}
    augmenter = Augmenter(Decoder.load(source), 2, 2, 4.0, 0)
    losses = held_out_losses(augmenter, found["a"] * 3)
    assert losses.shape == (18, 4) and not losses.requires_grad
    torch.testing.assert_close(losses[:6], augmenter.losses(found["a"]).detach())
    plain = held_out_losses(augmenter, without_latents(found["a"]))
    assert plain.shape == (6, 4) and not torch.equal(plain, losses[:6])


Damage = Callable[[Path], None]


def _rewrite(name: str, value: object) -> Damage:
    def damage(folder: Path) -> None:
        facts = read_json(folder / "coprocessor.json") | {name: value}
        (folder / "coprocessor.json").write_text(json.dumps(facts))

    return damage


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_rewrite("format", "other"), "its format is 'other'"),
        (_rewrite("fingerprint", 3), "fingerprint is 3"),
        (lambda folder: (folder / "coprocessor.safetensors").write_bytes(b"x"), "damaged"),
        (lambda folder: (folder / "coprocessor.json").unlink(), "there is no coprocessor.json"),
    ],
)
def test_damaged_files(damage: Damage, problem: str, tmp_path: Path) -> None:
    weights = {"soft": torch.ones(2, 4), "scale": torch.ones(1)}
    save_tensors(tmp_path / "coprocessor.safetensors", weights)
    facts = {"format": "outrider-coprocessor-1", "fingerprint": "a"}
    write_json(tmp_path / "coprocessor.json", facts)
    assert Coprocessor.read(tmp_path).fingerprint == "a"
    with pytest.raises(CheckpointError, match="another model"):
        Coprocessor.read(tmp_path).check_made_for("b", "small")
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=problem):
        Coprocessor.read(tmp_path)


def test_no_data(config: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no data directory"):
        train_coprocessor(config, data=tmp_path / "nowhere", out=tmp_path / "run")
