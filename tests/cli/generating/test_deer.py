"""`--draft FOLDER --drafter deer`: by name, under a grammar, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch

from outrider.models.checkpoints.opening import open_checkpoint
from outrider.protocols.masks import FORMAT, KIND
from outrider.training.core.state import save_tensors, write_json
from tests.cli.conftest import Family, Run

pytestmark = pytest.mark.method("deer")


@pytest.fixture
def folder(tmp_path: Path, family: Family) -> Path:
    """The target itself as a draft model with random masks."""
    made = tmp_path / "draft"
    shutil.copytree(family.target, made)
    hidden = open_checkpoint(made).config["hidden_size"]
    assert isinstance(hidden, int)
    save_tensors(made / f"{KIND}.safetensors", {"mask": torch.full((hidden,), 0.1)})
    write_json(made / f"{KIND}.json", {"format": FORMAT, "block": 8, "both": True})
    return made


def test_by_name(folder: Path, family: Family, run: Run) -> None:
    for extra in ((), ("--regex", "(yes|no), [a-z ]{3,12}")):
        words = ("abcabc", "--raw", "--max-new-tokens", "16", "--json", *extra)
        own = run("generate", *words, *family.alone).json
        told = run(
            *("generate", *words, "--target", family.target),
            *("--draft", folder, "--drafter", "deer(k=4)"),
        ).json
        assert told["token_ids"] == own["token_ids"]
        assert told["speculation"]["exactness"] == "identical"
        assert told["speculation"]["mode"] == "exact"


def test_what_is_refused(folder: Path, family: Family, run: Run) -> None:
    words = ("generate", "abc", "--raw", "--target", family.target)
    for more, problem in (
        (("--drafter", "deer"), "needs a draft model"),
        (("--draft", family.target, "--drafter", "deer"), "trained on masked blocks"),
        (("--draft", folder, "--drafter", "deer(k=9)"), "blocks of at most 8"),
        (("--draft", folder, "--drafter", "deer(k=0)"), "k is 0"),
    ):
        outcome = run(*words, *more)
        assert outcome.code == 2 and problem in outcome.error
        assert "Traceback" not in outcome.error
    (folder / f"{KIND}.safetensors").write_bytes(b"no tensors")
    outcome = run(*words, "--draft", folder, "--drafter", "deer")
    assert outcome.code and "outrider train deer" in outcome.error
