"""Medusa heads through `load` and the command line: the text stays the target's."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import outrider
from outrider.cli.app import app
from outrider.engine.heads import choosing as heads
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.medusa import WEIGHTS
from outrider.models.heads.formats.writing import write_head
from outrider.models.heads.medusa.config import RANKS
from outrider.models.sources.families import family
from outrider.policies import FixedTree
from outrider.training.heads.kinds.medusa import fresh_medusa
from outrider.training.heads.start import Teacher

pytestmark = [pytest.mark.method("medusa"), pytest.mark.usefixtures("unchecked", "any_head")]

PROMPT = "Once upon a time there was a dog. Once upon a time there was"
WRITE: dict[str, Any] = {"max_new_tokens": 16, "seed": 3}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "top_p": 0.9},
    "stop": {"stop": ("dog", ".")},
    "regex": {"regex": "(yes|no), [a-z ]{3,12}"},
}
SIZE = FixedTree(depth=3, nodes=8)


@pytest.fixture
def any_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained heads are accepted."""
    monkeypatch.setattr(heads, "check_head", lambda *_: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained heads for the tiny family, in our own format."""
    place, source = tmp_path_factory.mktemp("medusa"), family("tiny")["target"]
    teacher = Teacher.of(open_checkpoint(source))
    ids = torch.arange(0, teacher.config.vocab_size, 3).int().numpy()
    config, tensors = fresh_medusa(teacher, teacher.config.num_layers, ids, 3)
    tensors["accuracies"] = torch.full((3, RANKS), 0.3) / torch.arange(1, RANKS + 1)
    verifier = Verifier(name_or_path="tiny", tokenizer=Tokenizer.load(source).fingerprint)
    write_head(place, config, tensors, verifier, bits=8, card="# Heads")
    return place


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in the published format, with output rows of their own."""
    place = tmp_path_factory.mktemp("published")
    teacher = Teacher.of(open_checkpoint(family("tiny")["target"]))
    width = teacher.config.hidden_size
    tensors = {}
    for head in range(3):
        tensors[f"{head}.0.linear.weight"] = torch.zeros(width, width)
        tensors[f"{head}.0.linear.bias"] = torch.zeros(width)
        tensors[f"{head}.1.weight"] = teacher.lm_head.clone()
    save_file(tensors, place / WEIGHTS)
    config = {"medusa_num_heads": 3, "medusa_num_layers": 1, "base_model_name_or_path": "tiny"}
    (place / "config.json").write_text(json.dumps(config))
    return place


@cache
def undrafted() -> Any:
    return outrider.load("tiny", drafter="none", draft="none", threads=1)


@pytest.mark.parametrize("drafter", ["medusa", pytest.param("auto", marks=pytest.mark.slow)])
def test_the_text_is_the_targets(folder: Path, drafter: str) -> None:
    options: dict[str, Any] = {} if drafter == "auto" else {"policy": SIZE}
    generator = outrider.load("tiny", draft=folder, drafter=drafter, threads=1, **options)
    drafted = 0
    for name, sampling in SAMPLINGS.items():
        result = generator.generate(PROMPT, **WRITE, **sampling)
        assert result.token_ids == undrafted().generate(PROMPT, **WRITE, **sampling).token_ids, name
        assert result.speculation.exactness == "identical"
        drafted += result.speculation.target.drafted
    assert drafted > 20 or drafter == "auto"
    assert "medusa" in generator.strategy.describe()


def test_the_published_format_runs(published: Path) -> None:
    generator = outrider.load("tiny", draft=published, drafter="medusa", policy=SIZE, threads=1)
    result = generator.generate(PROMPT, **WRITE)
    assert result.token_ids == undrafted().generate(PROMPT, **WRITE).token_ids
    assert result.speculation.target.drafted > 20


def test_on_the_command_line(folder: Path) -> None:
    """The text of `generate` is that without drafts."""
    asked = ["generate", PROMPT, "--target", "tiny", "--max-new-tokens", "12", "--threads", "1"]
    texts = []
    heads_of_it = ["--draft", str(folder), "--drafter", "medusa(nodes=6)"]
    for more in ([*heads_of_it, "--policy", "fixed-tree(depth=3,nodes=6)"], ["--mode", "none"]):
        found = CliRunner().invoke(app, [*asked, *more])
        assert found.exit_code == 0, found.output
        texts.append(found.output.splitlines()[0])
        assert ("acceptance" in found.output) == ("--draft" in more)
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize("kind", ["folder", "published"])
def test_the_memory_plan_counts_the_heads(kind: str, request: pytest.FixtureRequest) -> None:
    chosen = heads.Chosen(request.getfixturevalue(kind), given=True)
    demand, source = heads.head_demand(chosen), family("tiny")["target"]
    target = outrider.load(source, drafter="none").strategy.target
    pair = heads.load_head(chosen, target, Tokenizer.load(source))
    assert pair is not None
    states = pair.target.info.bytes_per_token - target.info.bytes_per_token
    assert demand.cache == states + pair.head.info.bytes_per_token
    assert demand.weights > 0
