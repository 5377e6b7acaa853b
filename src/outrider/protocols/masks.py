"""The files `deer.*` beside a checkpoint: it was trained to predict blocks of masked tokens."""

import stat
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from outrider.protocols.trained import read_trained

KIND, FORMAT = "deer", "outrider-deer-1"
"""Name of the files, and the value of `format` in `deer.json`."""
_MOST_TOKENS = 64


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BlockMask:
    """What a model that was trained to predict blocks of masked tokens reads as a mask.

    Attributes:
        embedding: `[hidden]` float32, read in place of a token (`Segment.prompts`).
        block: the largest number of tokens that it was trained to predict at once.
        both: whether masks read those behind them as well (`Segment.both`).
    """

    embedding: Float[Tensor, " hidden"]
    block: int
    both: bool


def read_mask(folder: Path, hidden: int) -> BlockMask | None:
    """Return what the checkpoint in `folder` reads as a mask; None if there is no `deer.json`.

    Args:
        folder: the folder of the checkpoint.
        hidden: the size of its embeddings.

    Raises:
        CheckpointError: the files are damaged, or belong to another model.
    """
    try:
        found = (folder / f"{KIND}.json").stat()
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(found.st_mode):
        return None
    files = read_trained(folder, KIND, FORMAT)
    block, both = files.number("block"), files.facts.get("both")
    if not (block.is_integer() and 1 <= block <= _MOST_TOKENS):
        raise files.damaged(f"block is {block:g}, and 1 to {_MOST_TOKENS} tokens are expected")
    if not isinstance(both, bool):
        raise files.damaged(f"both is {both!r:.40}, and true or false is expected")
    return BlockMask(embedding=files.tensor("mask", hidden), block=int(block), both=both)
