"""Static models for tests, with the runner of one's choice."""

from pathlib import Path

import torch

from outrider.models.checkpoint import open_checkpoint
from outrider.models.decoder_config import read_config
from outrider.models.decoder_weights import load_weights
from outrider.models.static import StaticDecoder
from outrider.models.static.runner import Runner


def static(
    folder: Path, runner: Runner | None = None, dtype: torch.dtype = torch.float64
) -> StaticDecoder:
    checkpoint = open_checkpoint(folder)
    config = read_config(checkpoint.config)
    weights = load_weights(checkpoint, config, dtype, torch.device("cpu"))
    return StaticDecoder(checkpoint, config, weights, runner=runner)
