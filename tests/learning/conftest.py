"""The family `tiny` with a draft model that was not distilled from its target."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.models.sources.families import family


@pytest.fixture(scope="session")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The draft model of `tiny` with noise in its matrices."""
    folder = tmp_path_factory.mktemp("shaken") / "draft"
    shutil.copytree(family("tiny")["draft"], folder)
    chance = torch.Generator().manual_seed(1)
    weights = {name: one.float() for name, one in load_file(folder / "model.safetensors").items()}
    for weight in weights.values():
        if weight.ndim == 2:
            weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=chance)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
