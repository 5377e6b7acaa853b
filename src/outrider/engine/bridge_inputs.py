"""Reads the token ids and masks of `outrider.generate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.inputs.prompts.ids import read_ids

GivenIds = Tensor | np.ndarray | Mapping[str, object] | Sequence[int] | Sequence[Sequence[int]]
"""Token ids `[batch, length]`, or a mapping that holds them as `input_ids`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Prompts as they were given.

    Attributes:
        rows: ids of each prompt, with padding.
        prompts: the ids without padding.
        front: number of padding ids before each prompt.
        device: device of the given tensor; None for lists.
    """

    rows: list[list[int]]
    prompts: list[list[int]]
    front: list[int]
    device: torch.device | None

    @property
    def width(self) -> int:
        """Length of the longest row."""
        return max(len(row) for row in self.rows)

    def seen(self, row: int) -> Tensor:
        """Ids of a prompt as processors of `transformers` see it: `[1, width]`, with padding."""
        return torch.tensor([self.rows[row]], dtype=torch.long)

    def padding(self, row: int) -> int:
        """Number of ids before the prompt that are padding, for a row padded on the left."""
        return self.front[row]


def read_batch(inputs: object, mask: object, pad: int | None, ends: Sequence[int]) -> Batch:
    """Read the prompts of a call.

    Without a mask, padding is recognised as in `transformers`: by the padding token, if it is not
    an end token.

    Args:
        inputs: ids; see `GivenIds`.
        mask: 1 for ids that are read, `[batch, length]`; None: all, without padding.
        pad: the padding token, where one is set.
        ends: the end tokens.

    Raises:
        OptionError: there is no prompt, or it is not made of token ids; the mask does not fit.
    """
    device = inputs.device if isinstance(inputs, Tensor) else None
    rows = _rows(inputs)
    if mask is None:
        known = pad is not None and pad not in ends
        keeps = [[not known or token != pad for token in row] for row in rows]
    else:
        keeps = _keeps(mask, rows)
    prompts = [
        [token for token, keep in zip(row, kept, strict=True) if keep]
        for row, kept in zip(rows, keeps, strict=True)
    ]
    for number, kept in enumerate(keeps):
        if not any(kept):
            raise OptionError(f"row {number} holds padding only", hint="Leave the row out")
        if not kept[-1]:
            raise OptionError(
                f"attention_mask, or pad_token_id, marks the end of row {number} as padding",
                hint="Pad on the left: tokenizer.padding_side = 'left'",
            )
    front = [kept.index(True) for kept in keeps]
    return Batch(rows=rows, prompts=prompts, front=front, device=device)


def _keeps(mask: object, rows: Sequence[Sequence[int]]) -> list[list[bool]]:
    found = [[bool(keep) for keep in row] for row in _lists(mask)]
    if [len(row) for row in found] != [len(row) for row in rows]:
        raise OptionError(
            f"attention_mask has rows of {[len(row) for row in found]} and the ids rows of "
            f"{[len(row) for row in rows]}",
            hint="Give a mask of the shape of the ids",
        )
    return found


def _rows(inputs: object) -> list[list[int]]:
    """Convert a tensor, an array, a list of tensors, or lists to lists of token ids."""
    if inputs is None:
        raise OptionError("there is no prompt", hint="Give token ids [batch, length]")
    rows = [list(read_ids(row)) for row in _lists(inputs)]
    if not rows or not any(rows):
        raise OptionError("there is no prompt", hint="Give token ids [batch, length]")
    return rows


def _lists(values: object) -> list[Sequence[object]]:
    """Convert to rows; one row may stand alone."""
    if isinstance(values, Tensor | np.ndarray):
        values = values.tolist()
    if isinstance(values, str | bytes | bytearray) or not isinstance(values, Sequence):
        raise OptionError(f"the prompt is {values!r:.40}", hint="Give token ids [batch, length]")
    rows: list[object] = [v.tolist() if isinstance(v, Tensor | np.ndarray) else v for v in values]
    nested = [isinstance(row, Sequence) and not isinstance(row, str | bytes) for row in rows]
    if rows and not any(nested):
        return [rows]
    if not all(nested):
        raise OptionError("the prompt mixes ids and lists", hint="Give token ids [batch, length]")
    return [row for row in rows if isinstance(row, Sequence)]
