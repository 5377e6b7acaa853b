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

from outrider.core.tree import path_to
from outrider.core.types import NO_IDS, IntArray, Prompt, as_ids
from outrider.models.caches.kv_cache import DecoderCache
from outrider.protocols import Segment


class Reference:
    """The checkpoint at `path`, run by `transformers` with plain eager attention.

    Logits of a text are computed once: the weights must not change afterwards.
    """

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation="eager"
        ).eval()
        self._known: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def logits(self, tokens: Sequence[int]) -> Tensor:
        """`[len(tokens), vocab]`."""
        text = tuple(int(token) for token in tokens)
        if text not in self._known:
            self._known[text] = self.model(torch.tensor([text]), use_cache=False).logits[0]
        return self._known[text]

    @torch.no_grad()
    def states(self, tokens: Sequence[int]) -> Tensor:
        """`[layers + 1, len(tokens), hidden]`: its own `output_hidden_states`."""
        ids = torch.tensor([[int(token) for token in tokens]])
        out = self.model(ids, use_cache=False, output_hidden_states=True)
        return torch.cat(out.hidden_states)

    @torch.no_grad()
    def embedded(self, rows: Tensor) -> Tensor:
        """`[len(rows), vocab]` after embeddings instead of ids."""
        return self.model(inputs_embeds=rows[None], use_cache=False).logits[0]

    @torch.no_grad()
    def head(self, hidden: Tensor) -> Tensor:
        """`[rows, vocab]` of what the head reads."""
        logits = self.model.get_output_embeddings()(hidden)
        logits = logits / getattr(self.model.config, "logits_scaling", 1.0)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    def node_logits(self, text: Sequence[int], tokens: IntArray, parents: IntArray) -> Tensor:
        """Row 0 after the text; row i + 1 after the path from the text to node i."""
        return self._of_nodes(text, tokens, parents, self.logits)

    def node_states(self, text: Sequence[int], tokens: IntArray, parents: IntArray) -> Tensor:
        """`[layers + 1, nodes + 1, hidden]`, rows as in `node_logits`."""

        def rows_first(tokens: Sequence[int]) -> Tensor:
            return self.states(tokens).transpose(0, 1)

        return self._of_nodes(text, tokens, parents, rows_first).transpose(0, 1)

    def _of_nodes(
        self,
        text: Sequence[int],
        tokens: IntArray,
        parents: IntArray,
        read: Callable[[Sequence[int]], Tensor],
    ) -> Tensor:
        """One pass for each leaf gives the rows of all nodes on its path."""
        rows: dict[int, Tensor] = {}
        for leaf in sorted({*range(-1, len(tokens))} - {int(parent) for parent in parents}):
            path = path_to(parents, leaf)
            found = read([*text, *(int(tokens[node]) for node in path)])
            rows |= zip([-1, *path], found[len(text) - 1 :], strict=True)
        return torch.stack([rows[node] for node in range(-1, len(tokens))])


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
