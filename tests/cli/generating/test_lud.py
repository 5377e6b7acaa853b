"""`--drafter "lud(pad=FOLDER)"` and `--rule lud`: by name, verified and lossy."""

from pathlib import Path

import pytest
import torch

from outrider.drafters.heads.prompt_tokens import PAD_FORMAT, PAD_KIND
from outrider.training.core.state import save_tensors, write_json
from tests.cli.conftest import Family, Run

pytestmark = pytest.mark.method("lud")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random pad for two guesses."""
    pad = torch.randn(32, generator=torch.Generator().manual_seed(0))
    save_tensors(
        tmp_path / f"{PAD_KIND}.safetensors", {"pad": pad, "rates": torch.full((2, 1), 0.4)}
    )
    write_json(tmp_path / f"{PAD_KIND}.json", {"format": PAD_FORMAT, "vocab_size": 288})
    return tmp_path


def test_by_name(folder: Path, family: Family, run: Run) -> None:
    words = ("abcabc", "--raw", "--max-new-tokens", "12", "--json")
    own = run("generate", *words, *family.alone).json
    drafter = ("--target", family.target, "--drafter", f"lud(pad={folder},nodes=8)")
    told = run("generate", *words, *drafter).json
    assert told["token_ids"] == own["token_ids"]
    assert told["speculation"]["exactness"] == "identical"
    assert told["speculation"]["origins"]["lud"]["drafted"] > 0
    drafter = ("--target", family.target, "--drafter", f"lud(pad={folder},beta=0)")
    lossy = run("generate", *words, *drafter, "--rule", "lud(beta=0)").json
    assert lossy["speculation"]["exactness"] == "lossy"
    assert lossy["speculation"]["changed_tokens"] > 0
    assert lossy["token_ids"] != own["token_ids"]


def test_what_is_refused(folder: Path, family: Family, run: Run) -> None:
    for words, problem in (
        (("--drafter", "lud"), "option pad of 'lud' is not given"),
        (("--drafter", "lud(pad=nowhere)"), "nowhere"),
        (("--drafter", f"lud(pad={folder},k=0)"), "k is 0"),
        (("--drafter", f"lud(pad={folder})", "--rule", "lud(beta=-1)"), "beta is -1"),
    ):
        outcome = run("generate", "abc", "--raw", "--target", family.target, *words)
        assert outcome.code == 2 and problem in outcome.error
