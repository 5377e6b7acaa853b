"""A tiny target and its recorded answers."""

from pathlib import Path

import pytest
import torch

from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.llama.decoder import Decoder
from outrider.training.heads import answers
from outrider.training.heads.answers import Recorder, record
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.training.heads.setups import LAYERS, QUIET, SETTINGS, STATES, prompts


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    return make_checkpoint(folder, tokenizer=True, std=0.25, num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def recorder(source: Path) -> Recorder:
    target = Decoder.load(source, dtype=torch.float32)
    return Recorder.of(target, Tokenizer.load(source), STATES, SETTINGS)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SHARD", 4)


@pytest.fixture(scope="module")
def recorded(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 texts in four files; prompt 5 is too long."""
    folder = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "SHARD", 4)
        record(recorder, prompts(14), folder, QUIET)
    return folder
