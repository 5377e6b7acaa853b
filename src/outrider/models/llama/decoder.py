"""Runs Llama-shaped checkpoints from their safetensors in PyTorch, written to be readable.

All texts of a forward share one packed matrix of rows; only attention treats texts separately.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.layers import LayerSet
from outrider.core.types import IntArray, Rows
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.watching import watched_layers, with_states
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.attention import Part, reach
from outrider.models.llama.base import OwnModel
from outrider.models.llama.config import DecoderConfig, read_config, supports
from outrider.models.llama.layers import (
    Batch,
    DecoderLayer,
    Hidden,
    embedded,
    entering,
    logits_of,
    rms_norm,
)
from outrider.models.llama.packing import packed_rows, packed_starts, turns
from outrider.models.llama.rope import RotaryTable
from outrider.models.llama.weights import DecoderWeights, Linear, load_weights
from outrider.protocols import Segment

__all__ = ["Decoder", "supports"]


class Decoder(OwnModel):
    """A `LanguageModel` for the architectures in `families.py`.

    Attributes:
        dtype: dtype of weights, cache and logits.
        device: device of weights, cache and logits.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: DecoderConfig,
        weights: DecoderWeights,
        *,
        name: str | None = None,
    ) -> None:
        self.dtype, self.device = weights.embed.dtype, weights.embed.device
        unread = 0 if config.tied else weights.embed.numel()
        unread += config.experts.unread(config.hidden_size) if config.experts else 0
        super().__init__(
            checkpoint,
            config,
            name=name,
            dtype=self.dtype,
            cache_dtype=self.dtype,
            device=self.device,
            num_parameters=weights.num_parameters,
            weight_bytes=(weights.num_parameters - unread) * self.dtype.itemsize,
        )
        self.weights = weights
        self._layers = [
            DecoderLayer(index, layer, config) for index, layer in enumerate(weights.layers)
        ]
        self._keeps: Sequence[int] = ()
        self._rotary = RotaryTable(config.rope, self.dtype, self.device)
        local = config.local_rope
        self._local_rotary = local and RotaryTable(local, self.dtype, self.device)

    @classmethod
    def load(
        cls,
        path: str | Path | Checkpoint,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        name: str | None = None,
    ) -> "Decoder":
        """Load the folder at `path`.

        Raises:
            UnsupportedCheckpointError: an architecture, or a part of one, that this class does
                not run exactly; see `supports`.
            CheckpointError: the folder is missing, damaged or holds other tensors.
        """
        checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
        config = read_config(checkpoint.config)
        weights = load_weights(checkpoint, config, dtype, torch.device(device))
        return cls(checkpoint, config, weights, name=name)

    def embed(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens hidden"]:
        """Return the input embeddings of these ids."""
        ids = torch.as_tensor(np.asarray(token_ids, dtype=np.int64)).to(self.device)
        return embedded(ids, self.weights, self.config)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments in one pass; `hidden` is the final normed state of the requested rows.

        Raises:
            ContextError: a token would lie beyond the context window.
        """
        if not segments:
            return []
        caches = [narrowed(s.cache, DecoderCache, self.info.name) for s in segments]
        self._read_to_points(caches)
        feeds = [c.feed(s, rows) for c, s, rows in zip(caches, segments, want, strict=True)]
        hidden = self._read(feeds)
        wanted = torch.from_numpy(packed_rows(feeds)).to(self.device)
        watched, states = watched_layers(caches), dict[int, Tensor]()
        kept = self._keeps
        layers = sorted({*watched, *kept})
        if len(hidden):
            hidden = self._pass(hidden, self._batch(feeds, caches), layers, states)
        normed = rms_norm(
            hidden if kept else hidden[wanted], self.weights.norm, self.config.norm_eps
        )
        if kept and len(hidden):
            states[self.num_layers] = normed
            self._store(feeds, caches, torch.stack([states[layer] for layer in kept], dim=1))
        states = {layer: state[wanted] for layer, state in states.items()}
        hidden = normed[wanted] if kept else normed
        logits = logits_of(hidden, self.weights, self.config)
        counts = [len(feed.take) for feed in feeds]
        out = [Rows(*pair) for pair in zip(logits.split(counts), hidden.split(counts), strict=True)]
        if not watched:
            return out
        states[self.num_layers] = hidden
        stacked = torch.stack([states.get(layer, hidden) for layer in watched])
        return with_states(out, caches, watched, stacked)

    def _read_parts(self, feeds: Sequence[Feed], caches: Sequence[DecoderCache]) -> None:
        kept, states = self._keeps, dict[int, Tensor]()
        hidden = self._pass(self._read(feeds), self._batch(feeds, caches), kept, states)
        if kept:
            states[self.num_layers] = rms_norm(hidden, self.weights.norm, self.config.norm_eps)
            self._store(feeds, caches, torch.stack([states[layer] for layer in kept], dim=1))

    def _pass(
        self,
        hidden: Hidden,
        batch: Batch,
        watched: Sequence[int],
        states: dict[int, Tensor],
    ) -> Hidden:
        """Run all layers; write the outputs of `watched` ones, except the last, to `states`."""
        waiting = [layer for layer in watched if layer < self.num_layers]
        for layer in self._layers:
            while (
                waiting and waiting[0] <= layer.index
            ):  # the input of a layer is the output of the one before
                states[waiting.pop(0)] = hidden
            hidden = layer(hidden, batch)
        for layer in waiting:
            states[layer] = hidden
        return hidden

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Apply the final norm and the head to residual streams."""
        normed = rms_norm(states, self.weights.norm, self.config.norm_eps)
        return logits_of(normed, self.weights, self.config)

    def head_rows(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens hidden"]:
        """Return the rows of the output head for these tokens, in float32."""
        head = self.weights.head
        assert isinstance(head, Linear)  # only matrices inside layers are of other kinds
        ids = torch.as_tensor(np.asarray(token_ids, dtype=np.int64), device=self.device)
        return head.weight[ids].float()

    def subset(self, layers: LayerSet) -> "Decoder":
        """Return the model made of `layers`: it shares the weights and the kind of cache."""
        layers.check(self.num_layers, self.info.name)
        part = object.__new__(Decoder)  # not the subclass: its programs run all layers
        part.__dict__.update(self.__dict__)
        part.info = replace(self.info, name=f"{self.info.name} ({layers})")
        part._keep(())
        part._layers = [
            DecoderLayer(
                index,
                self.weights.layers[index],
                self.config,
                attends=index in layers.attention,
                feeds=index in layers.mlp,
            )
            for index in layers.layers
        ]
        return part

    def _keep(self, states: Sequence[int]) -> None:
        self._keeps = tuple(states)

    def _store(
        self,
        feeds: Sequence[Feed],
        caches: Sequence[DecoderCache],
        states: Float[Tensor, "rows kept hidden"],
    ) -> None:
        """Write the hidden states of each feed to the storage of its cache."""
        places = [self._layout.kept.index(state) for state in self._keeps]
        counts = [len(feed.tokens) for feed in feeds]
        for feed, cache, own in zip(feeds, caches, states.split(counts), strict=True):
            cache.storage.states[feed.start : feed.end, places] = own.float()

    def _read(self, feeds: Sequence[Feed]) -> Float[Tensor, "tokens hidden"]:
        """Return the packed input rows: embedded ids, or the given embeddings."""
        ids = [f.tokens if f.prompts is None else np.maximum(f.tokens, 0) for f in feeds]
        hidden = self.embed(np.concatenate(ids))
        start = 0
        for feed in feeds:
            if feed.prompts is not None:
                rows = np.flatnonzero(feed.tokens < 0)
                read = torch.from_numpy(-1 - feed.tokens[rows])
                hidden[torch.from_numpy(start + rows)] = feed.prompts[read].to(hidden)
            if feed.embeddings is not None:
                hidden[start : start + len(feed.embeddings)] = feed.embeddings.to(hidden)
            start += len(feed.tokens)
        return entering(hidden, self.config)

    def _batch(self, feeds: Sequence[Feed], caches: Sequence[DecoderCache]) -> Batch:
        both = turns(self._rotary, feeds, self.device)
        local = self._local_rotary and turns(self._local_rotary, feeds, self.device)
        for feed, cache in zip(feeds, caches, strict=True):
            cache.reserve(feed.start, feed.end)
        parts = [
            self._part(feed, cache, int(start))
            for feed, cache, start in zip(feeds, caches, packed_starts(feeds), strict=True)
            if len(feed.tokens)
        ]
        return Batch(parts, both, local)

    def _part(self, feed: Feed, cache: DecoderCache, first_row: int) -> Part:
        return Part(
            rows=slice(first_row, first_row + len(feed.tokens)),
            start=feed.start,
            end=feed.end,
            storage=cache.storage,
            asked=cache.asked,
            reaches={window: reach(feed, cache, window) for window in set(self.config.windows)},
        )
