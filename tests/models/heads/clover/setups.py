"""Tiny Clover heads beside a tiny target."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.clover.config import CloverConfig
from outrider.models.heads.clover.module import CloverModule
from outrider.models.heads.config import HeadKind
from outrider.models.heads.loading import run_head
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.decoder import Decoder
from outrider.training.heads.start import Teacher
from tests.models.heads.setups import DRAFT, LAYERS, VOCAB, Rig

SHAPES: dict[str, dict[str, Any]] = {
    "clover": {},
    "clover-one": {"layers": 1},
    "clover-plain": {"layers": 0},
    "clover-parallel": {"layers": 1, "regressive": False},
}
"""Heads as in the paper, and with its parts switched off."""


def clover_config(layer: DecoderConfig, draft: int = DRAFT, **changes: Any) -> CloverConfig:
    """The shape of heads for a target with a layer of this shape."""
    one = replace(
        layer,
        vocab_size=draft,
        num_layers=1,
        windows=layer.windows[-1:],
        rotary=layer.rotary[-1:],
        tied=False,
    )
    plain = CloverConfig(
        kind=HeadKind.CLOVER,
        layer=one,
        states=(LAYERS,),
        target_width=one.hidden_size,
        target_vocab=VOCAB,
    )
    return replace(plain, **changes)


def clover_numbers(config: CloverConfig, seed: int = 5) -> dict[str, Tensor]:
    """Random tensors; norms lie around 1, and all of them differ."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in config.shapes().items():
        drawn = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.2 * drawn if "norm" in name else drawn * 1.5 / shape[-1] ** 0.5
    order = torch.randperm(config.target_vocab, generator=generator)
    tensors["ids"] = order[: config.draft_vocab].sort().values.int()
    return tensors


def clover_module(
    config: CloverConfig, tensors: dict[str, Tensor], teacher: Teacher
) -> CloverModule:
    """Heads with the embeddings and the output rows of their target."""
    rows = teacher.lm_head[tensors["ids"].long()]
    return CloverModule(config, tensors, lambda ids: F.embedding(ids, teacher.embed), rows)


def clover_rig(folder: Path, name: str = "clover", heads: int = 3, **changes: Any) -> Rig:
    """Heads beside the target of a folder, so many if they are not regressive; `changes` are
    tensors by their names."""
    teacher = Teacher.of(open_checkpoint(folder))
    config = clover_config(teacher.config, **{"heads": heads} | SHAPES[name])
    tensors = clover_numbers(config) | changes
    module = clover_module(config, tensors, teacher)
    target = Decoder.load(folder, dtype=torch.float32)
    pair = run_head(config, tensors, target, name="clover")
    return Rig(config, tensors, teacher, module, pair.target, pair.head)  # pyright: ignore[reportArgumentType]
