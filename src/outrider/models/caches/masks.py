"""Attention masks for models that take them from outside: which slots each row of a feed sees."""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.types import BoolArray, IntArray
from outrider.models.caches.bookkeeping import Feed

FULL, SLIDING = "full_attention", "sliding_attention"


def visible_slots(feed: Feed) -> BoolArray:
    """`[n, feed.end]`, true where row i of the feed sees slot j, before any sliding window."""
    rows, slots = np.arange(feed.start, feed.end), np.arange(feed.end)
    seen = slots[None, :] <= rows[:, None]
    if feed.tree is not None:
        seen[:, feed.base :] = feed.tree  # empty for pending rows, whose own slots come before
    return seen


def within_window(seen: BoolArray, rows: IntArray, slots: IntArray, window: int) -> BoolArray:
    """`seen` less what lies `window` or more positions back.

    `rows` and `slots` are the *positions* of the rows and of the slots: siblings lie in different
    slots but at one position, so slots alone would make the window too short.
    """
    return seen & (rows[:, None] - slots[None, :] < window)


def additive(
    seen: Bool[np.ndarray, "n slots"], dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "1 1 n slots"]:
    """Zero where a slot is seen, the most negative number of `dtype` where it is not."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    hidden = torch.from_numpy(~seen).to(device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """The kinds of attention layers one model has.

    Attributes:
        config: the text model's configuration. The window is read from it at each forward, as the
            model itself does.
        kinds: `full_attention`, `sliding_attention` or both.
    """

    config: Any
    kinds: frozenset[str]

    @classmethod
    def of(cls, config: Any, name: str) -> "AttentionLayout":
        """Read it from a `transformers` configuration.

        Raises:
            CheckpointError: layers whose mask or state is not understood (recurrent, chunked,
                local, sparse).
        """
        text = config.get_text_config(decoder=True)
        window = getattr(text, "sliding_window", None)
        kinds = frozenset(getattr(text, "layer_types", None) or [SLIDING if window else FULL])
        odd = sorted(kinds - {FULL, SLIDING})
        if not odd and getattr(text, "attention_chunk_size", None):
            odd = ["chunked_attention"]
        if not odd and "local" in str(getattr(text, "attention_types", "")):
            odd = ["local attention"]
        if odd:
            raise CheckpointError(
                f"model {name} ({config.model_type}) has layers of type {odd[0]!r}, which can not "
                "read a draft tree and roll it back",
                hint="Use a model with plain or sliding-window attention layers",
            )
        return cls(text, kinds)

    @property
    def window(self) -> int | None:
        """Positions that a row of a sliding layer sees, itself included."""
        return self.config.sliding_window if SLIDING in self.kinds else None

    def masks(
        self, feed: Feed, slots: IntArray, dtype: torch.dtype, device: torch.device
    ) -> Tensor | Mapping[str, Tensor]:
        """One additive mask, or one for each kind of layer where there are two.

        `slots` are the positions of all slots up to `feed.end`.
        """
        seen = visible_slots(feed)
        near = seen
        if self.window is not None:
            near = within_window(seen, feed.positions, slots, self.window)
        by_kind = {FULL: seen, SLIDING: near}
        masks = {kind: additive(by_kind[kind], dtype, device) for kind in sorted(self.kinds)}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    @contextmanager
    def narrowed(self, window: int):
        """Inside, sliding layers have a window so small that a few tokens show what it does."""
        if self.window is None:
            yield
            return
        before = self.config.sliding_window
        self.config.sliding_window = window
        try:
            yield
        finally:
            self.config.sliding_window = before
