"""`outrider train unmasking` from a file to a filter."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from outrider.cli.app import app
from outrider.core.errors import CheckpointError, OptionError
from outrider.models.denoisers.filter import UnmaskingFilter
from outrider.models.denoisers.loading import load_denoiser
from outrider.models.sources.families import family
from outrider.training.unmasking.train import train_unmasking
from tests.models.denoisers.reference import OWN, written

RECIPE = """
name = "small"
target = "{target}"
tasks = ["latin-square", "copy"]
items = 10
block = 16
steps = 40
evaluate_every = 10
{more}
"""


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small denoiser with random weights and the tokenizer of the tiny family."""
    folder, tiny = tmp_path_factory.mktemp("denoiser"), family("tiny")["target"]
    size = json.loads((tiny / "config.json").read_text())["vocab_size"]
    shape = {"num_hidden_layers": 1, "max_position_embeddings": 512}
    written(folder, {**OWN, **shape, "vocab_size": size + 1, "mask_token_id": size})
    for file in tiny.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def recipe(folder: Path, target: str | Path, more: str = "") -> Path:
    file = folder / "recipe.toml"
    file.write_text(RECIPE.format(target=target, more=more))
    return file


def test_from_a_file_to_a_filter(denoiser: Path, tmp_path: Path) -> None:
    words = ["train", "unmasking", str(recipe(tmp_path, denoiser)), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "run" / "small"
    found = UnmaskingFilter.load(folder)
    found.check(load_denoiser(denoiser).info.fingerprint, 16)
    assert bool((found(torch.rand(2, 16)) > 0).all())
    facts = json.loads((folder / "measured.json").read_text())
    assert facts["answers"] == 20
    assert 20 * 2 <= facts["rounds_of_the_oracle"] <= 20 * 32
    assert 0 <= facts["filter"]["false_positives"] <= 1
    assert facts["recipe"]["block"] == 16
    assert "filter above 0.96" in result.output and str(folder) in result.output
    again = train_unmasking(tmp_path / "recipe.toml", out=tmp_path / "again", report=lambda _: None)
    rows = torch.rand(4, 16)
    assert torch.equal(UnmaskingFilter.load(again)(rows), found(rows))


def test_faulty_settings_are_refused(denoiser: Path, tmp_path: Path) -> None:
    for more, message in (
        ("accept = 2", "accept is 2"),
        ("learning_rate = 0", "learning_rate is 0"),
        ("speed = 1", "speed"),
    ):
        with pytest.raises(OptionError, match=message):
            train_unmasking(recipe(tmp_path, denoiser, more), out=tmp_path / "run")
    file = recipe(tmp_path, denoiser)
    for old, new, message in (
        ("items = 10", "items = 9", "items is 9"),
        ("copy", "copying", "unknown task 'copying'"),
    ):
        file.write_text(RECIPE.format(target=denoiser, more="").replace(old, new))
        with pytest.raises(OptionError, match=message):
            train_unmasking(file, out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="no masked denoiser"):
        train_unmasking(recipe(tmp_path, "tiny"), out=tmp_path / "run")
