"""A small model with layers to leave out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.models.llama.decoder import Decoder
from tests.drafters.layers.layer_rigs import LAYERS
from tests.models.setups.make_checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp("model"), num_hidden_layers=LAYERS, vocab_size=48, std=0.15
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return Decoder.load(folder, dtype=torch.float64)
