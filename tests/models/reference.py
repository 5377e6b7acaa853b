"""`transformers` as the judge: one text at a time, no cache, no batch."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from outrider import kernels
from outrider.core.tree import path_to
from outrider.core.types import NO_IDS, IntArray, Prompt, as_ids
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.protocols import Segment

RUNNERS: dict[str, Callable[[Path], Any]] = {
    "eager": Decoder.load,
    "native": lambda path: NativeDecoder.load(path, dtype=torch.float32),
}
"""Two ways to run one checkpoint in float32."""

if not kernels.available():
    del RUNNERS["native"]


class Reference:
    """The checkpoint at `path`, run by `transformers` with plain eager attention."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation="eager"
        ).eval()

    @torch.no_grad()
    def logits(self, tokens: Sequence[int]) -> Tensor:
        """`[len(tokens), vocab]`."""
        return self.model(torch.tensor([list(tokens)]), use_cache=False).logits[0]

    @torch.no_grad()
    def embedded(self, rows: Tensor) -> Tensor:
        """`[len(rows), vocab]` after embeddings instead of ids."""
        return self.model(inputs_embeds=rows[None], use_cache=False).logits[0]

    def node_logits(self, text: Sequence[int], tokens: IntArray, parents: IntArray) -> Tensor:
        """Row 0 after the text; row i + 1 after the path from the text to node i."""
        paths = [path_to(parents, node) for node in range(-1, len(tokens))]
        rows = [self.logits([*text, *(int(tokens[n]) for n in path)])[-1] for path in paths]
        return torch.stack(rows)


def random_ids(count: int, seed: int = 0, vocab_size: int = 288) -> tuple[int, ...]:
    """Ids that repeat now and then."""
    return tuple(int(i) for i in np.random.default_rng(seed).integers(0, vocab_size, count))


def begin(model: Any, text: Sequence[int]) -> DecoderCache:
    """A cache that has read all of `text` but its last token."""
    [cache] = model.start([Prompt(token_ids=tuple(text))])
    return cache


def all_logits(model: Any, text: Sequence[int]) -> Tensor:
    """`[len(text), vocab]`: the rows of one prefill."""
    cache = begin(model, text[:1])
    rest = as_ids(text[1:])
    [rows] = model.forward([Segment(cache, rest)], [np.arange(-1, len(rest))])
    return rows.logits


def next_logits(model: Any, cache: DecoderCache) -> Tensor:
    """`[vocab]` after the text of `cache`."""
    [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
    return rows.logits[0]


def tree_logits(model: Any, cache: DecoderCache, tokens: IntArray, parents: IntArray) -> Tensor:
    """`[1 + nodes, vocab]`, as `Reference.node_logits`."""
    segment = Segment(cache, tokens, parents)
    [rows] = model.forward([segment], [np.arange(-1, len(tokens))])
    return rows.logits


def edited(path: Path, target: Path, **changes: Any) -> Path:
    """A copy of the checkpoint whose config.json has `changes`; None removes a key."""
    shutil.copytree(path, target, dirs_exist_ok=True)
    config = json.loads((target / "config.json").read_text()) | changes
    removed = {key for key, value in changes.items() if value is None}
    kept = {key: value for key, value in config.items() if key not in removed}
    (target / "config.json").write_text(json.dumps(kept))
    return target


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """Assert the largest difference is within `tolerance`."""
    difference = float((ours - theirs).abs().max())
    assert ours.shape == theirs.shape and difference <= tolerance, difference


def apart(ours: Tensor, theirs: Tensor) -> None:
    """Assert that a mutation shows: the largest difference is far above what `close` allows."""
    assert float((ours - theirs).abs().max()) > 1e-3
