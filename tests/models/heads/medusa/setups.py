"""Tiny Medusa heads beside a tiny target."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.config import HeadKind
from outrider.models.heads.loading import run_head
from outrider.models.heads.medusa.config import RANKS, MedusaConfig, rows_of
from outrider.models.heads.medusa.model import MedusaModel
from outrider.models.heads.medusa.module import MedusaModule, untrained
from outrider.models.llama.decoder import Decoder
from outrider.training.heads.start import Teacher
from tests.models.heads.setups import LAYERS, Rig

HEADS, DRAFTS = 3, 30


def medusa_config(teacher: Teacher, **changes: Any) -> MedusaConfig:
    """The shape of the heads."""
    options: dict[str, Any] = {
        "kind": HeadKind.MEDUSA,
        "states": (LAYERS,),
        "target_width": teacher.config.hidden_size,
        "target_vocab": teacher.config.vocab_size,
        "heads": HEADS,
        "drafts": DRAFTS,
    }
    return MedusaConfig(**options | changes)


def medusa_numbers(config: MedusaConfig, seed: int = 5) -> dict[str, Tensor]:
    """Heads that differ from each other; the token of each rank is often that of the target."""
    generator = torch.Generator().manual_seed(seed)
    tensors = untrained(config)
    for name, tensor in tensors.items():
        drawn = torch.randn(tensor.shape, generator=generator)
        tensors[name] = tensor + 0.5 * drawn / tensor.shape[-1] ** 0.5
    if config.own_rows:
        for head in range(config.heads):
            shape = (config.drafts, config.width)
            tensors[rows_of(head)] = torch.randn(shape, generator=generator)
    order = torch.randperm(config.target_vocab, generator=generator)
    tensors["ids"] = order[: config.drafts].sort().values.int()
    tensors["accuracies"] = torch.full((config.heads, RANKS), 0.4) / torch.arange(1, RANKS + 1)
    return tensors


def medusa_rig(folder: Path, target: Any = None, **changes: Any) -> Rig:
    """Heads beside the target of a folder; options of the shape, or tensors by their names."""
    teacher = Teacher.of(open_checkpoint(folder))
    shape = {name: one for name, one in changes.items() if not isinstance(one, Tensor)}
    config = medusa_config(teacher, **shape)
    given = {name: one for name, one in changes.items() if isinstance(one, Tensor)}
    tensors = medusa_numbers(config) | given
    found = Decoder.load(folder, dtype=torch.float32) if target is None else target
    pair = run_head(config, tensors, found, name="medusa")
    assert isinstance(pair.head, MedusaModel) and isinstance(pair.head.module, MedusaModule)
    return Rig(config, tensors, teacher, pair.head.module, pair.target, pair.head)  # pyright: ignore[reportArgumentType]
