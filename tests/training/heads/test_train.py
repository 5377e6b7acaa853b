"""`outrider train head` from a file to a head, on the draft model of the tiny family."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from outrider import kernels
from outrider.cli.app import app
from outrider.core.errors import OptionError
from outrider.models.heads.formats.reading import read_head
from outrider.models.sources.families import family
from outrider.training.heads import answers
from outrider.training.heads.card import head_card
from outrider.training.heads.train import train_head

pytestmark = [
    pytest.mark.method("hinted"),
    pytest.mark.skipif(not kernels.available(), reason="no compiled kernels"),
]

RECIPE = """
name = "small-head"
target = "{target}"
kind = "hinted"
draft_vocab = 64
train_vocab = 32
{more}

[answers]
tokens = 60
longest = 12
batch = 3

[training]
single = 1.0
unrolled = 0.0
steps = 2
texts = 2
held_out = 1

[[prompts]]
name = "tasks"
file = "tasks.jsonl"
form = "instruction"
share = 1.0
licence = "CC0-1.0"
"""


def written(folder: Path, more: str = "") -> Path:
    """The file of a recipe, and its prompts beside it."""
    file = folder / "recipe.toml"
    target = family("tiny")["draft"]
    file.write_text(RECIPE.format(target=target, more=more), encoding="utf-8")
    lines = [json.dumps({"prompt": f"Name {i} animals."}) for i in range(40)]
    (folder / "tasks.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return file


def test_from_a_file_to_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SHARD", 4)
    file, said = written(tmp_path), list[str]()
    made = train_head(file, data=tmp_path, out=tmp_path / "run", report=said.append)
    found = read_head(made)
    assert found.format == "hinted" and 0 < found.config.draft_vocab <= 64
    card = (made / "README.md").read_text(encoding="utf-8")
    assert "| tasks | " in card and "CC0-1.0" in card and "other prompts" in card
    assert set(load_file(made / "followers.safetensors")) >= {"contexts.1", "entries.3"}
    assert "tokens_a_round" in found.trained
    weights = (made / "model.safetensors").read_bytes()
    train_head(file, data=tmp_path, out=tmp_path / "run", report=said.append)  # all is done
    assert (made / "model.safetensors").read_bytes() == weights
    recipe = file.read_text()
    file.write_text(recipe.replace("draft_vocab = 64", "draft_vocab = 40"))
    with pytest.raises(OptionError, match="training with another value of draft_vocab"):
        train_head(file, data=tmp_path, out=tmp_path / "run", report=said.append)
    (tmp_path / "run" / "training.safetensors").unlink()
    train_head(file, data=tmp_path, out=tmp_path / "run", report=said.append)
    assert read_head(made).config.draft_vocab == 40
    file.write_text(recipe.replace("longest = 12", "longest = 13"))
    with pytest.raises(OptionError, match="recorded with another value of answers"):
        train_head(file, data=tmp_path, out=tmp_path / "run", report=said.append)


def test_wrong_states_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for states in ("[1, 2, 900]", "[2, 1]", "[0]"):
        file = written(tmp_path, f"states = {states}")
        with pytest.raises(OptionError, match="states are"):
            train_head(file, data=tmp_path, out=tmp_path / "run", report=print)
    with pytest.raises(OptionError, match="states"):
        train_head(written(tmp_path, "states = [2.5]"), data=tmp_path, out=tmp_path / "run")
    assert not (tmp_path / "run" / "texts").exists()


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "head", str(tmp_path / "no.toml")])
    assert result.exit_code != 0
    assert isinstance(result.exception, OptionError) and "no configuration" in str(result.exception)


def test_a_card_before_the_head_is_measured(tmp_path: Path) -> None:
    from outrider.training.core.config import read_table
    from outrider.training.heads.config import HeadRecipe

    recipe = read_table(written(tmp_path), HeadRecipe)
    card = head_card(recipe, parameters=5_900_000, tokens=1234, kinds={"tasks": 7}, judged=None)
    assert "5.9 million" in card and "1,234 tokens of 7 answers" in card
    assert "continues" not in card
    further = replace(recipe, training=replace(recipe.training, start="heads/first"))
    card = head_card(further, parameters=5_900_000, tokens=1234, kinds={"tasks": 7}, judged=None)
    assert "It continues the training of the head `first`." in card
    assert "other prompts" not in card
