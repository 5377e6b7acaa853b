"""Runs the head of a file beside its target."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from outrider.core.errors import StrategyError
from outrider.models.cpu.native import NativeDecoder
from outrider.models.heads.clover.config import CloverConfig
from outrider.models.heads.clover.model import CloverModel
from outrider.models.heads.clover.module import CloverModule
from outrider.models.heads.config import HeadConfig, HeadShape
from outrider.models.heads.medusa.config import MedusaConfig
from outrider.models.heads.medusa.model import MedusaModel
from outrider.models.heads.medusa.module import MedusaModule
from outrider.models.heads.model import HeadModel, keeping_for
from outrider.models.heads.module import Embedding, HeadModule
from outrider.models.heads.native import NOTHING_GROUPED, NativeHead
from outrider.models.quantization.grouped import Grouped
from outrider.protocols import LanguageModel


@dataclass(frozen=True, slots=True)
class HeadPair:
    """A head and its target, whose caches store what the head reads."""

    head: HeadModel
    target: LanguageModel


def run_head(
    config: HeadShape,
    tensors: Mapping[str, Tensor],
    target: LanguageModel,
    *,
    name: str,
    dtype: torch.dtype = torch.int8,
    grouped: Mapping[str, Grouped] = NOTHING_GROUPED,
) -> HeadPair:
    """Run a head beside `target`: compiled where the target is compiled, else in PyTorch.

    Args:
        config: shape of the head.
        tensors: its tensors (`HeadShape.shapes`).
        target: the model for which it drafts.
        name: its name in errors and reports.
        dtype: of the compiled head: `torch.int8` (in groups) or `torch.float32`.
        grouped: matrices that its files store as small integers; the compiled head reads these.

    Raises:
        StrategyError: the target cannot store its hidden states, has no embeddings to share, or is
            not on the CPU.
        OptionError: the target has no such states.
    """
    if target.info.device.type != "cpu":
        raise StrategyError(
            f"draft heads run on the CPU, and {target.info.name} on {target.info.device}",
            hint="Load with device='cpu', or leave out the head",
        )
    keeping = keeping_for(config, target)
    assert keeping.hidden_states is not None  # `keeping` returns the same kind of model
    if isinstance(config, MedusaConfig):
        ids = [] if config.own_rows else tensors["ids"].numpy()
        heads = MedusaModule(config, tensors, keeping.hidden_states.head_rows(ids))
        return HeadPair(MedusaModel(heads, dict(tensors), keeping, name), keeping)
    if isinstance(config, CloverConfig):
        rows = keeping.hidden_states.head_rows(tensors["ids"].numpy())
        clover = CloverModule(config, tensors, _embedding(keeping), rows)
        return HeadPair(CloverModel(clover, dict(tensors), keeping, name), keeping)
    assert isinstance(config, HeadConfig)  # all other kinds have one layer
    own = tensors.get("lm_head.weight")
    rows = keeping.hidden_states.head_rows(tensors["ids"].numpy()) if own is None else own
    module = HeadModule(config, tensors, _embedding(keeping), rows)
    if isinstance(keeping, NativeDecoder):
        return HeadPair(NativeHead(module, dict(tensors), keeping, name, dtype, grouped), keeping)
    return HeadPair(HeadModel(module, dict(tensors), keeping, name), keeping)


def _embedding(target: LanguageModel) -> Embedding:
    """Return the embeddings of a target, for ids of any shape."""
    embed = target.embed
    if embed is None:
        raise StrategyError(
            f"{target.info.name} has no embeddings that a head can share",
            hint="Use a head with embeddings of its own, or another drafter",
        )

    def embedded(ids: Int[Tensor, "*rows"]) -> Tensor:
        return embed(ids.flatten().cpu().numpy()).float().view(*ids.shape, -1)

    return embedded
