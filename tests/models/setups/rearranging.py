"""Caches that are taken apart before a judge, and what they hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outrider.core.types import Kept, Piece
from tests.models.setups.reference import random_ids
from tests.models.setups.seen import Opened, Twin

IDS = random_ids(30)
PLACES = tuple(int(i) for i in np.arange(30) + 10 * (np.arange(30) // 10))


def stored(cache: Any) -> Tensor:
    """Keys and values of the committed rows, `[2, layers, heads, length, dim]`, as a copy."""
    if hasattr(cache, "keys"):
        return torch.stack((cache.keys, cache.values)).clone()
    pairs = [(x.keys[0], x.values[0]) for x in cache.storage.layers]
    return torch.stack([torch.stack(pair) for pair in pairs], dim=1)[..., : cache.length, :].clone()


def rearrange(twin: Twin, pieces: Sequence[Piece]) -> None:
    """Rearrange, and note which rows stay and which are new."""
    twin.note()
    old, rows = list(twin.entries), twin.cache.num_rows
    twin.model.rearrange([twin.cache], [pieces])
    held: dict[int, int] = {}
    length = 0
    for piece in pieces:
        if isinstance(piece, Kept):
            kept = range(piece.start, min(piece.stop, rows))
            held |= {length + i - piece.start: old[i] for i in kept}
            length += piece.stop - piece.start
        else:
            length += len(piece.token_ids)
    assert len(twin.cache.text) == length and len(twin.cache.pending) == 1
    twin.entries = []
    text, places = twin.cache.text, twin.places
    for i in range(length - 1):
        entry = held.get(i)
        twin.entries.append(
            twin.judge.note(text[i], places[i], twin.entries) if entry is None else entry
        )


def start(one: Opened) -> Twin:
    return Twin.start(one, IDS, PLACES)
