"""What must hold of any runner's cache after any round."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from outrider.core.types import NO_IDS, IntArray, Prompt, as_ids
from outrider.protocols import Segment


def assert_equals_fresh_prefill(
    model: Any, cache: Any, *, tolerance: float = 1e-9, embeddings: Tensor | None = None
) -> None:
    """I3: `cache` equals a fresh prefill of its text at its places, minus what is pending.

    Compares the keys and values of committed rows where the cache shows them (`keys`, `values`,
    `[layers, heads, length, dim]`), and the logits after the text. The cache is left as it was.

    Args:
        model: a `LanguageModel`, float64 for the default tolerance.
        cache: one of its caches, between two rounds or within one.
        tolerance: largest difference allowed.
        embeddings: `[prompt, hidden]` rows the prompt was read as, if not its ids.
    """
    text = tuple(cache.text)
    assert 1 <= len(cache.pending) <= len(text)
    assert tuple(cache.pending) == text[len(text) - len(cache.pending) :]
    places = cache.places.between(0, len(text))
    readable = text[: int(np.searchsorted(places, model.info.context_length - 1))]
    [fresh] = model.start([_prompt(model, readable, places, embeddings)])
    committed = min(len(text) - len(cache.pending), len(readable) - 1)
    for name in ("keys", "values"):
        if hasattr(cache, name):
            ours, theirs = getattr(cache, name), getattr(fresh, name)
            assert ours.shape[2] == len(text) - len(cache.pending)
            _assert_close(ours[:, :, :committed], theirs[:, :, :committed], tolerance, name)
    if readable == text:
        twin = cache.fork()
        twin.commit(())
        ours, theirs = (
            model.forward([Segment(one, NO_IDS)], [as_ids([-1])])[0].logits for one in (twin, fresh)
        )
        _assert_close(ours, theirs, tolerance, "next logits")


def _prompt(
    model: Any, text: tuple[int, ...], places: IntArray, embeddings: Tensor | None
) -> Prompt:
    given = places[: len(text)]
    positions = None if np.array_equal(given, np.arange(len(text))) else tuple(given.tolist())
    if embeddings is None:
        return Prompt(token_ids=text, positions=positions)
    rest = model.embed(text[len(embeddings) :])
    rows = torch.cat((embeddings, rest))
    return Prompt(token_ids=text, embeddings=rows, positions=positions)


def _assert_close(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    assert ours.shape == theirs.shape, what
    if ours.numel():
        difference = float((ours - theirs).abs().max())
        assert difference <= tolerance, f"{what} differ by {difference:.3g}"
