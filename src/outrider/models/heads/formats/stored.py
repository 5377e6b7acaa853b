"""The tensors of a head's files: their shapes are checked before they are loaded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import Checkpoint, load_tensors
from outrider.models.heads.config import HeadShape

_WHOLE = ("I8", "I16", "I32", "I64", "U8", "U16", "U32", "BOOL")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHead:
    """Tensors by the names of `HeadShape.shapes`.

    Attributes:
        checkpoint: the opened files.
        names: our name -> the name of the checkpoint.
        where: the head in messages.
    """

    checkpoint: Checkpoint
    names: Mapping[str, str]
    where: str

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor; None if the files lack it."""
        found = self.names.get(name)
        return None if found is None else self.checkpoint.tensors[found].shape

    def is_whole(self, name: str) -> bool:
        """Whether a tensor is stored as integers or booleans."""
        return self.checkpoint.tensors[self.names[name]].dtype in _WHOLE

    def whole(self, names: Collection[str]) -> dict[str, Tensor]:
        """Load those of these tensors that the files hold, as int64.

        Raises:
            CheckpointError: one is not stored as integers, or has more than one axis.
        """
        found = [name for name in names if name in self.names]
        for name in found:
            if not self.is_whole(name) or len(self.shape(name) or ()) != 1:
                info = self.checkpoint.tensors[self.names[name]]
                raise CheckpointError(
                    f"{name} of the head {self.where} has dtype {info.dtype} and shape "
                    f"{list(info.shape)}, expected a list of integers",
                    hint="Download its files again, or convert it again",
                )
        return self._load(found, torch.int64)

    def floats(self, names: Collection[str]) -> dict[str, Tensor]:
        """Load these tensors as float32; raises `CheckpointError` if one holds integers."""
        for name in names:
            if self.is_whole(name):
                raise CheckpointError(
                    f"tensor {name} of the head {self.where} holds integers, expected numbers",
                    hint="Download its files again, or convert it again",
                )
        return self._load(names, torch.float32)

    def raw(self, names: Collection[str]) -> dict[str, Tensor]:
        """Load these tensors as float32, whatever they are stored as."""
        return self._load(names, torch.float32)

    def check(self, config: HeadShape, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check names and shapes of what will be loaded, before it takes memory.

        Raises:
            CheckpointError: as `HeadConfig.check`; or the target's embeddings or head, which are
                used for missing ones, have another width.
        """
        empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        config.check(empty, self.where)
        for name in ("lm_head.weight", "embed_tokens.weight"):
            if name not in empty and config.width != config.target_width:
                raise CheckpointError(
                    f"the head {self.where} lacks {name}, and that of its target has width "
                    f"{config.target_width} in place of {config.width}",
                    hint="Download its files again, or convert it again",
                )

    def _load(self, names: Collection[str], dtype: torch.dtype) -> dict[str, Tensor]:
        loaded = load_tensors(self.checkpoint, [self.names[name] for name in names], dtype)
        return {name: loaded[self.names[name]] for name in names}
