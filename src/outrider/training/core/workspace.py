"""Shared state of all stages of a family: paths, device, tokenizer, corpus, models."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from outrider.core.errors import OptionError
from outrider.training.core.config import FamilyConfig, Shape
from outrider.training.core.corpus import Windows, build_corpus, sample_texts
from outrider.training.core.loop import StopSignal
from outrider.training.core.models import build_model, moved
from outrider.training.core.state import read_json, write_json
from outrider.training.core.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

TIERS = ("target", "qualifier", "draft")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """The folder of a run with its configuration; methods return the paths in it."""

    config: FamilyConfig
    folder: Path
    data: Path
    stop: StopSignal

    @property
    def device(self) -> torch.device:
        """The device to train on."""
        if self.config.device != "auto":
            return torch.device(self.config.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer."""
        return self.folder / "tokenizer"

    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer."""
        return load_tokenizer(self.tokenizer_folder)

    def new_model(self, tier: str) -> LlamaForCausalLM:
        """Build an initialized model of one tier on the device."""
        shape: Shape = getattr(self.config.models, tier)
        seed = self.config.seed * 10 + TIERS.index(tier)
        longest = self.config.max_position_embeddings
        model = build_model(shape, self.config.vocabulary.size, longest, seed)
        return moved(model, self.device)

    def windows(self, length: int, part: tuple[float, ...], seed: int) -> Windows:
        """Return training windows of `length` tokens from a part of the corpus."""
        stream = np.load(self.folder / "corpus" / "train.npy", mmap_mode="r")
        return Windows(stream, length, part, self.config.seed * 100 + seed)

    def body(self, model: LlamaForCausalLM) -> Callable[..., Tensor]:
        """Return the model up to its last hidden states, compiled if the configuration says so."""
        if not self.config.compile:
            return model.model  # type: ignore[return-value]
        return torch.compile(model.model, dynamic=False)  # type: ignore[return-value]


def stage_done(work: Workspace, name: str) -> bool:
    """Whether the stage `name` has been completed."""
    return name in read_json(work.folder / "state.json")


def mark_done(work: Workspace, name: str, result: object) -> None:
    """Mark the stage `name` as completed, with its result."""
    state = read_json(work.folder / "state.json")
    state[name] = result
    write_json(work.folder / "state.json", state)


def prepare_tokenizer(work: Workspace) -> None:
    """Train and save the tokenizer."""
    config = work.config
    tokenizer = train_tokenizer(sample_texts(config, work.data), config.vocabulary.size)
    found = tokenizer.get_vocab_size()
    if found != config.vocabulary.size:
        raise OptionError(
            f"the sample yields only {found} of {config.vocabulary.size} vocabulary entries",
            hint="Lower vocabulary.size or raise vocabulary.sample_bytes",
        )
    save_tokenizer(tokenizer, work.tokenizer_folder, config.max_position_embeddings)


def prepare_corpus(work: Workspace) -> None:
    """Tokenize the mix and the held-out files."""
    folder = work.folder / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    build_corpus(work.config, work.data, work.tokenizer(), folder)


def use_threads(config: FamilyConfig) -> None:
    """Set PyTorch's number of threads; 0 means every usable core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(config.threads or cores or 1)
