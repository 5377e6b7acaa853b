"""Families of small checkpoints with a known truth: a target, and copies of it with noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from outrider import kernels
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cuda import StaticDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.transformers.model import TransformersModel
from tests.exactness.setups.rigs import Family
from tests.models.setups.make_checkpoints import make_checkpoint

PROMPTS = [(5, 9, 40, 3), (7,), (11, 12, 13, 14, 15, 16, 17), (1, 2), (30, 31, 32)]
SHAPE: dict[str, Any] = {"vocab_size": 48, "std": 0.25}
TIERS = (0.0, 0.15, 0.25, 0.35)
"""Noise of target, qualifier, small and draft."""

RUNNERS: dict[str, Any] = {
    "eager": lambda path: Decoder.load(path, dtype=torch.float64),
    "static": lambda path: StaticDecoder.load(path, dtype=torch.float64),
    "transformers": lambda path: TransformersModel.load(path, dtype=torch.float64),
}
if kernels.available():
    RUNNERS["native"] = lambda path: NativeDecoder.load(path, dtype=torch.float32, threads=1)
    RUNNERS["int8"] = lambda path: NativeDecoder.load(path, dtype=torch.int8, threads=1)
"""The compiled runner needs no float64: its rows do not depend on one another at all."""


def noisy(path: Path, seed: int, amount: float) -> None:
    """Shake the weights of the checkpoint at `path`: a smaller tier that often agrees."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(amount * weight.std() * torch.randn_like(weight))
    model.save_pretrained(path)


def make_tiers(
    root: Path, kind: str, amounts: Sequence[float] = TIERS, **options: Any
) -> list[Path]:
    """A checkpoint for each amount of noise: each further from the first, the target."""
    made = []
    for i, amount in enumerate(amounts):
        path = make_checkpoint(root / str(i), kind, dtype=torch.float64, **SHAPE, **options)
        if amount:
            noisy(path, i, amount)
        made.append(path)
    return made


def load_family(folders: Sequence[Path], runner: str) -> Family:
    """All tiers by one of the `RUNNERS`."""
    return Family(*(RUNNERS[runner](path) for path in folders))
