"""A model with a chat template is asked, any other one continues; one line says which was done."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from outrider.cli.commands.generate import EMPTY
from outrider.engine.load import load
from tests.cli.conftest import Family, Run
from tests.models.setups.make_checkpoints import EOS_ID, make_checkpoint

LENGTH = ["--max-new-tokens", "8"]
ASKED: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def plain(family: Family, tmp_path: Path) -> Path:
    """The target without its chat template."""
    folder = tmp_path / "plain"
    shutil.copytree(family.target, folder)
    (folder / "chat_template.jinja").unlink()
    return folder


def told(err: str) -> str:
    """The one line about the prompt."""
    [line] = [line for line in err.splitlines() if line.startswith("prompt: ")]
    return line


def test_a_chat_model_is_asked_by_default(family: Family, run: Run) -> None:
    library = load(str(family.target), mode="none")
    answer = library.generate(ASKED, max_new_tokens=8).text
    continued = library.generate("Hello", max_new_tokens=8).text
    assert answer != continued
    words = ["generate", "Hello", *family.alone, *LENGTH]
    for given in ([], ["--chat"]):
        outcome = run(*words, *given)
        assert (outcome.code, outcome.out) == (0, f"{answer}\n")
        assert "a message in the model's chat template (--raw:" in told(outcome.err)
    raw = run(*words, "--raw")
    assert raw.out == f"{continued}\n"
    assert "plain text to continue (--chat:" in told(raw.err)


def test_a_model_without_a_template_continues(plain: Path, run: Run) -> None:
    words = ["generate", "Hello", "--target", plain, "--mode", "none", *LENGTH]
    outcome = run(*words)
    assert outcome.code == 0
    assert "the model has no chat template" in told(outcome.err)
    assert outcome.out == run(*words, "--raw").out
    refused = run(*words, "--chat")
    assert refused.code == 2
    assert "has no chat template. Leave it out" in refused.error
    assert "no chat template" in run("chat", "--target", plain, stdin="Hello\n").error


def test_json_says_how_the_prompt_was_given(family: Family, run: Run) -> None:
    words = ["generate", "Hello", *family.alone, *LENGTH, "--json"]
    chat, raw = run(*words), run(*words, "--raw")
    assert (chat.err, raw.err) == ("", "")
    assert (chat.json["prompt_format"], raw.json["prompt_format"]) == ("chat", "raw")
    assert chat.json["prompt_tokens"] == raw.json["prompt_tokens"] + 3


def test_samples_and_streams_are_asked_too(family: Family, run: Run) -> None:
    words = ["generate", "Hello", *family.two, *LENGTH, "--temperature", "1", "--seed", "3"]
    first = run(*words, "--json").json["text"]
    assert run(*words, "--stream").out == f"{first}\n"
    several = run(*words, "--n", "2", "--json").json
    assert several["choices"][0]["text"] == first and several["prompt_format"] == "chat"


def test_an_empty_text_is_explained(tmp_path: Path, run: Run) -> None:
    generation = {"sequence_bias": [[[EOS_ID], 100.0]]}
    folder = make_checkpoint(tmp_path / "ends", tokenizer=True, generation=generation)
    outcome = run("generate", "Hello", "--target", folder, "--mode", "none", *LENGTH)
    assert (outcome.code, outcome.out) == (0, "\n")
    assert outcome.err.splitlines()[-1] == EMPTY


@pytest.mark.slow
def test_a_real_chat_model_answers(smollm2: Path, run: Run) -> None:
    words = ["generate", "Name three primary colors.", "--threads", "1", "--dtype", "stored"]
    by_name, by_file = (run(*words, "--target", place) for place in ("smollm2", smollm2))
    assert by_name.out == by_file.out
    assert all(color in by_name.out.lower() for color in ("red", "blue", "yellow"))
