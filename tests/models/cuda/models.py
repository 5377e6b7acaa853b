"""Static models for tests, with the runner of one's choice."""

from pathlib import Path

import torch

from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cuda import StaticDecoder
from outrider.models.cuda.runner import Runner
from outrider.models.llama.config import read_config
from outrider.models.llama.weights import load_weights


def static(
    folder: Path, runner: Runner | None = None, dtype: torch.dtype = torch.float64
) -> StaticDecoder:
    checkpoint = open_checkpoint(folder)
    config = read_config(checkpoint.config)
    weights = load_weights(checkpoint, config, dtype, torch.device("cpu"))
    return StaticDecoder(checkpoint, config, weights, runner=runner)
