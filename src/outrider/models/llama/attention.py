"""Attention of one ragged batch: each text has its own cache and mask."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import BoolArray
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.kv_cache import Asked, DecoderCache, Storage
from outrider.models.caches.masks import visible_slots, within_window

_FEW_ROWS = 16


@dataclass(frozen=True, slots=True)
class Reach:
    """The slots that a feed reads under one window: from `first` on, except those that `mask`
    hides.

    `mask` is added to the scores: 0 or minus infinity. None hides nothing.
    """

    first: int
    mask: Float[Tensor, "rows slots"] | None


@dataclass(frozen=True, slots=True)
class Part:
    """One text in a batch: its packed rows, slots, storage, and its reach for each window; and the
    queries that a policy of its cache asks for."""

    rows: slice
    start: int
    end: int
    storage: Storage
    reaches: dict[int | None, Reach]
    asked: Asked | None = None


def visible(feed: Feed, cache: DecoderCache, window: int | None) -> BoolArray:
    """Return `[rows, end]`: slots visible to each row of `feed` under `window` (None: no
    window).
    """
    seen = visible_slots(feed)
    if window is None:
        return seen
    return within_window(seen, feed.positions, cache.slot_positions(feed.end), window)


def reach(feed: Feed, cache: DecoderCache, window: int | None) -> Reach:
    """Return `visible`, cut to the slots that at least one row reads."""
    if len(feed.tokens) == 1 and feed.tree is None and (window is None or not cache.places.shift):
        return Reach(0 if window is None else max(0, feed.end - window), None)
    mask = visible(feed, cache, window)
    first = int(mask.any(axis=0).argmax())
    mask = mask[:, first:]
    if mask.all():
        return Reach(first, None)
    layout = cache.layout
    hidden = torch.from_numpy(~mask).to(layout.device)
    scores = torch.zeros(mask.shape, dtype=layout.dtype, device=layout.device)
    return Reach(first, scores.masked_fill_(hidden, -torch.inf))


def attend(
    queries: Float[Tensor, "rows heads head_dim"],
    keys: Float[Tensor, "kv_heads slots head_dim"],
    values: Float[Tensor, "kv_heads slots head_dim"],
    mask: Float[Tensor, "rows slots"] | None,
    scale: float,
    cap: float | None = None,
) -> Float[Tensor, "rows width"]:
    """Compute scaled dot-product attention with grouped heads, `width = heads * head_dim`.

    Scores are multiplied by `scale` and then bounded by the soft cap `cap`. For few rows, the query
    heads that share keys are stacked, so that the keys are read once for the whole group.
    """
    rows, heads, head_dim = queries.shape
    kv_heads = keys.shape[0]
    group = heads // kv_heads
    keys, values = keys[None], values[None]
    if rows > _FEW_ROWS and cap is None:
        out = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            keys,
            values,
            attn_mask=mask,
            enable_gqa=group > 1,
            scale=scale,
        )
        return out[0].transpose(0, 1).reshape(rows, -1)
    stacked = queries.view(rows, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    stacked = stacked.reshape(1, kv_heads, group * rows, head_dim)
    if mask is not None and group > 1:
        mask = mask.repeat(group, 1)
    if cap is None:
        out = F.scaled_dot_product_attention(stacked, keys, values, attn_mask=mask, scale=scale)
    else:
        scores = soft_cap(stacked @ keys.transpose(2, 3) * scale, cap)
        scores = scores if mask is None else scores + mask
        wide = torch.promote_types(scores.dtype, torch.float32)
        out = scores.softmax(dim=-1, dtype=wide).to(values.dtype) @ values
    return out.view(kv_heads, group, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, -1)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """Bound values smoothly to the range from -cap to cap."""
    return cap * torch.tanh(x / cap)
