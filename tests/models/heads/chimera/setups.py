"""Tiny heads of Chimera beside a tiny target."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.chimera.config import ChimeraConfig
from outrider.models.heads.chimera.model import ChimeraModel
from outrider.models.heads.chimera.module import ChimeraModule
from outrider.models.heads.config import HeadKind
from outrider.models.heads.loading import run_head
from outrider.models.heads.medusa.config import RANKS
from outrider.models.llama.decoder import Decoder
from outrider.training.heads.start import Teacher, layer_of
from tests.models.heads.setups import DRAFT, LAYERS, Rig

HEADS = 3
PARTS: dict[str, dict[str, Any]] = {
    "chimera": {},
    "chimera-short": {"context": False},
    "chimera-long": {"trigram": False},
}
"""The head, and the heads with one of its two parts."""


def chimera_config(teacher: Teacher, **changes: Any) -> ChimeraConfig:
    """The shape of a head."""
    plain = ChimeraConfig(
        kind=HeadKind.CHIMERA,
        layer=layer_of(teacher.config, DRAFT),
        states=(LAYERS,),
        target_width=teacher.config.hidden_size,
        target_vocab=teacher.config.vocab_size,
        heads=HEADS,
    )
    return replace(plain, **changes)


def chimera_numbers(config: ChimeraConfig, seed: int = 5) -> dict[str, Tensor]:
    """Random tensors, in which every part changes the logits."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in config.shapes().items():
        drawn = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.2 * drawn if "norm" in name else drawn / shape[-1] ** 0.5
    order = torch.randperm(config.target_vocab, generator=generator)
    tensors["ids"] = order[: config.draft_vocab].sort().values.int()
    tensors["accuracies"] = torch.full((config.heads, RANKS), 0.4) / torch.arange(1, RANKS + 1)
    return tensors


def chimera_rig(folder: Path, target: Any = None, **changes: Any) -> Rig:
    """A head beside the target of a folder; options of the shape, or tensors by their names."""
    teacher = Teacher.of(open_checkpoint(folder))
    shape = {name: one for name, one in changes.items() if not isinstance(one, Tensor)}
    config = chimera_config(teacher, **shape)
    given = {name: one for name, one in changes.items() if isinstance(one, Tensor)}
    tensors = chimera_numbers(config) | given
    found = Decoder.load(folder, dtype=torch.float32) if target is None else target
    pair = run_head(config, tensors, found, name="chimera")
    assert isinstance(pair.head, ChimeraModel) and isinstance(pair.head.module, ChimeraModule)
    return Rig(config, tensors, teacher, pair.head.module, pair.target, pair.head)
