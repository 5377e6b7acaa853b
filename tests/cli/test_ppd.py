"""`--drafter "ppd(prompts=FOLDER)"`: by name, under a grammar, and what is refused."""

from pathlib import Path

import pytest
import torch

from outrider.drafters.heads.prompt_tokens import FORMAT, KIND, PromptTokens, to_tensors
from outrider.training.core.state import save_tensors, write_json
from tests.cli.conftest import Family, Run

pytestmark = pytest.mark.method("ppd")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two prompt tokens with random embeddings."""
    table = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0))
    tokens = PromptTokens(table=table, rates=torch.full((2, 3), 0.2), vocab_size=288)
    save_tensors(tmp_path / f"{KIND}.safetensors", to_tensors(tokens))
    write_json(tmp_path / f"{KIND}.json", {"format": FORMAT, "vocab_size": 288})
    return tmp_path


def test_by_name(folder: Path, family: Family, run: Run) -> None:
    for extra in ((), ("--regex", "(yes|no), [a-z ]{3,12}")):
        words = ("abcabc", "--raw", "--max-new-tokens", "16", "--json", *extra)
        own = run("generate", *words, *family.alone).json
        told = run(
            *("generate", *words, "--target", family.target),
            *("--drafter", f"ppd(prompts={folder},nodes=8)"),
        ).json
        assert told["token_ids"] == own["token_ids"]
        assert told["speculation"]["exactness"] == "identical"
        if not extra:  # random guesses do not follow a grammar
            assert told["speculation"]["origins"]["ppd"]["drafted"] > 0


def test_what_is_refused(folder: Path, family: Family, run: Run) -> None:
    for words, problem in (
        (("--drafter", "ppd"), "option prompts of 'ppd' is not given"),
        (("--drafter", "ppd(prompts=nowhere)"), "nowhere"),
        (("--drafter", f"ppd(prompts={folder},nodes=0)"), "nodes is 0"),
    ):
        outcome = run("generate", "abc", "--raw", "--target", family.target, *words)
        assert outcome.code == 2 and problem in outcome.error
