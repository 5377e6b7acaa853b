"""A head of Chimera through `load`: the text stays the target's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import outrider
from outrider.engine.heads import choosing as heads
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.writing import write_head
from outrider.models.heads.medusa.config import RANKS
from outrider.models.sources.families import family
from outrider.training.heads.kinds.chimera import fresh_chimera
from outrider.training.heads.start import Teacher
from tests.engine.test_medusa import PROMPT, SAMPLINGS, SIZE, WRITE, undrafted
from tests.training.heads.setups import recipe

pytestmark = [pytest.mark.method("chimera"), pytest.mark.usefixtures("unchecked")]


@pytest.fixture(autouse=True)
def any_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained heads are accepted."""
    monkeypatch.setattr(heads, "check_head", lambda *_: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained head for the tiny family."""
    place, source = tmp_path_factory.mktemp("chimera"), family("tiny")["target"]
    checkpoint = open_checkpoint(source)
    teacher = Teacher.of(checkpoint)
    ids = torch.arange(0, teacher.config.vocab_size, 3).int().numpy()
    torch.manual_seed(0)
    asked = replace(recipe("chimera"), heads=3)
    config, tensors = fresh_chimera(teacher, teacher.config.num_layers, ids, asked)
    tensors["accuracies"] = torch.full((3, RANKS), 0.3) / torch.arange(1, RANKS + 1)
    verifier = Verifier(name_or_path="tiny", tokenizer=Tokenizer.load(source).fingerprint)
    write_head(place, config, tensors, verifier, bits=8, card="# A head", rotary=checkpoint.config)
    return place


def test_the_text_is_the_targets(folder: Path) -> None:
    generator = outrider.load("tiny", draft=folder, drafter="chimera", threads=1, policy=SIZE)
    drafted = 0
    for name, sampling in SAMPLINGS.items():
        result = generator.generate(PROMPT, **WRITE, **sampling)
        assert result.token_ids == undrafted().generate(PROMPT, **WRITE, **sampling).token_ids, name
        assert result.speculation.exactness == "identical"
        drafted += result.speculation.target.drafted
    assert drafted > 20
    assert "chimera" in generator.strategy.describe()


def test_the_memory_plan_counts_the_head(folder: Path) -> None:
    chosen = heads.Chosen(folder, given=True)
    demand, source = heads.head_demand(chosen), family("tiny")["target"]
    target = outrider.load(source, drafter="none").strategy.target
    pair: Any = heads.load_head(chosen, target, Tokenizer.load(source))
    states = pair.target.info.bytes_per_token - target.info.bytes_per_token
    assert demand.cache == states + pair.head.info.bytes_per_token
    assert demand.weights > 0
