"""A masked denoiser with the tokenizer that ships, and weights that nothing has trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import outrider
from outrider.engine.generator import Generator
from outrider.models.sources.families import family

EMBED = "model.embed_tokens.weight"


@pytest.fixture(scope="session")
def denoiser_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The draft model of `tiny` with one more token, read in both directions."""
    source, folder = family("tiny")["draft"], tmp_path_factory.mktemp("denoiser")
    weights = load_file(source / "model.safetensors")
    embed = weights[EMBED]
    noise = torch.randn(embed.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    embed = (embed.float() + noise).to(embed.dtype)  # texts of more than one token
    weights[EMBED] = torch.cat([embed, embed.mean(0, keepdim=True)])
    save_file(weights, folder / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config |= {"mask_token_id": config["vocab_size"], "vocab_size": config["vocab_size"] + 1}
    config |= {"model_type": "outrider_denoiser", "shifted_logits": True}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def writer(denoiser_folder: Path) -> Generator:
    """The default rule, with a threshold that commits several tokens a round."""
    return outrider.load(denoiser_folder, threads=1, denoising="threshold(threshold=0.05,block=8)")
