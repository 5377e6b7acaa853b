"""Attention masks for models that accept them as inputs: the slots visible to each row."""

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
    """Return `[n, feed.end]`: true if row i may attend to slot j, before any sliding window."""
    rows, slots = np.arange(feed.start, feed.end), np.arange(feed.end)
    seen = slots[None, :] <= rows[:, None]
    if feed.tree is not None:
        seen[:, feed.base :] = (
            feed.tree
        )  # empty for pending rows, whose own slots lie before `base`
    return seen


def within_window(seen: BoolArray, rows: IntArray, slots: IntArray, window: int) -> BoolArray:
    """Restrict `seen` to slots less than `window` positions back.

    `rows` and `slots` are *positions*: siblings lie in different slots at one position, so a window
    counted in slots would be too short.
    """
    return seen & (rows[:, None] - slots[None, :] < window)


def additive(
    seen: Bool[np.ndarray, "n slots"], dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "1 1 n slots"]:
    """Return an additive mask: zero for visible slots, the lowest number of `dtype` for others."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    hidden = torch.from_numpy(~seen).to(device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """The kinds of attention layers of one model.

    Attributes:
        config: the text model's configuration. The window is read from it at each forward, as the
            model itself does.
        kinds: `full_attention`, `sliding_attention` or both.
    """

    config: Any
    kinds: frozenset[str]

    @classmethod
    def of(cls, config: Any, name: str) -> "AttentionLayout":
        """Read the layout from a `transformers` configuration.

        Raises:
            CheckpointError: layers with an unsupported mask or state (recurrent, chunked, local,
                sparse).
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
                f"model {name} ({config.model_type}) has layers of type {odd[0]!r}, which cannot "
                "read a draft tree and roll it back",
                hint="Use a model with plain or sliding-window attention layers",
            )
        return cls(text, kinds)

    @property
    def window(self) -> int | None:
        """Number of positions visible to a row of a sliding layer, itself included."""
        return self.config.sliding_window if SLIDING in self.kinds else None

    def masks(
        self, feed: Feed, slots: IntArray, dtype: torch.dtype, device: torch.device
    ) -> Tensor | Mapping[str, Tensor]:
        """Build one additive mask, or one for each kind of layer if there are two.

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
        """Context manager: give sliding layers a window so small that few tokens test it."""
        if self.window is None:
            yield
            return
        before = self.config.sliding_window
        self.config.sliding_window = window
        try:
            yield
        finally:
            self.config.sliding_window = before
