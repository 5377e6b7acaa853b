"""Llama-shaped checkpoints, run straight from their safetensors: the readable eager path.

All texts of a forward share one packed matrix of rows; only attention looks at each text alone.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.models.cache import Feed
from outrider.models.checkpoint import Checkpoint, open_checkpoint
from outrider.models.decoder_attention import Part, reach
from outrider.models.decoder_config import DecoderConfig, read_config, supports
from outrider.models.decoder_layers import Batch, DecoderLayer, rms_norm
from outrider.models.decoder_weights import DecoderWeights, load_weights
from outrider.models.kv_cache import DecoderCache
from outrider.models.own import OwnModel
from outrider.models.rope import RotaryTable
from outrider.protocols import Segment
from outrider.types import IntArray, Rows

__all__ = ["Decoder", "supports"]


class Decoder(OwnModel):
    """A `LanguageModel` for Llama, Mistral, Qwen2, Qwen3 and SmolLM3 checkpoints.

    Attributes:
        dtype: of weights, cache and logits.
        device: where they lie.
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
        super().__init__(checkpoint, config, name=name, cache_dtype=self.dtype, device=self.device)
        self.weights = weights
        self._layers = [
            DecoderLayer(index, layer, config) for index, layer in enumerate(weights.layers)
        ]
        self._rotary = RotaryTable(config.rope, self.dtype, self.device)

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

    @property
    def num_parameters(self) -> int:
        """Numbers in its weights, a tied head counted once."""
        return self.weights.num_parameters

    def embed(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens hidden"]:
        """The rows it reads for these ids."""
        ids = torch.as_tensor(np.asarray(token_ids, dtype=np.int64)).to(self.device)
        return F.embedding(ids, self.weights.embed)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments in one pass; `hidden` is the final normed state of the rows wanted.

        Raises:
            ContextError: a token would stand beyond the context window.
        """
        if not segments:
            return []
        caches = [segment.cache for segment in segments]
        feeds = [s.cache.feed(s, rows) for s, rows in zip(segments, want, strict=True)]
        hidden = self._read(feeds)
        if len(hidden):
            batch = self._batch(feeds, caches)
            for layer in self._layers:
                hidden = layer(hidden, batch)
        hidden = hidden[torch.from_numpy(_packed_rows(feeds)).to(self.device)]
        hidden = rms_norm(hidden, self.weights.norm, self.config.norm_eps)
        logits = self.weights.head(hidden)
        counts = [len(feed.take) for feed in feeds]
        split = zip(logits.split(counts), hidden.split(counts), strict=True)
        return [Rows(own_logits, own_hidden) for own_logits, own_hidden in split]

    def _read(self, feeds: Sequence[Feed]) -> Float[Tensor, "tokens hidden"]:
        """The packed input rows: embedded ids, or the embeddings given instead."""
        hidden = self.embed(np.concatenate([feed.tokens for feed in feeds]))
        start = 0
        for feed in feeds:
            if feed.embeddings is not None:
                hidden[start : start + len(feed.embeddings)] = feed.embeddings.to(hidden)
            start += len(feed.tokens)
        return hidden

    def _batch(self, feeds: Sequence[Feed], caches: Sequence[DecoderCache]) -> Batch:
        positions = np.concatenate([feed.positions for feed in feeds])
        cos, sin = self._rotary.at(
            torch.from_numpy(positions).to(self.device), int(positions.max()) + 1
        )
        for feed, cache in zip(feeds, caches, strict=True):
            cache.reserve(feed.start, feed.end)
        parts = [
            self._part(feed, cache, int(start))
            for feed, cache, start in zip(feeds, caches, _starts(feeds), strict=True)
            if len(feed.tokens)
        ]
        return Batch(parts, cos, sin)

    def _part(self, feed: Feed, cache: DecoderCache, first_row: int) -> Part:
        return Part(
            rows=slice(first_row, first_row + len(feed.tokens)),
            start=feed.start,
            end=feed.end,
            storage=cache.storage,
            reaches={window: reach(feed, cache, window) for window in set(self.config.windows)},
        )


def _starts(feeds: Sequence[Feed]) -> IntArray:
    """Packed row of each feed's first token."""
    return np.cumsum([0, *(len(feed.tokens) for feed in feeds[:-1])])


def _packed_rows(feeds: Sequence[Feed]) -> IntArray:
    """Packed rows to return, in the order wanted."""
    pairs = zip(feeds, _starts(feeds), strict=True)
    return np.concatenate([feed.take + start for feed, start in pairs])
