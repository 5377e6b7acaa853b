"""Runs Llama-shaped checkpoints on the CPU with compiled kernels: one call for each forward.

The layers, the attention and the head run in C (`kernels/csrc`). The result of each row is
bit-identical to that of the row computed alone, so in any precision the text does not depend on the
drafts.
"""

import ctypes
import itertools
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS, IntArray, Rows, as_ids
from outrider.kernels import library, pool
from outrider.kernels.forking import Exclusive
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.eviction.cache import CompressedCache
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.watching import watched_layers, with_states
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.batch import RowArrays, following
from outrider.models.cpu.borrowed_cache import BorrowedNativeCache
from outrider.models.cpu.cache import CACHE_DTYPES, NativeCache, current
from outrider.models.cpu.compressed import NativeCompressedCache
from outrider.models.cpu.formats import described
from outrider.models.cpu.packed_weights import PackedModel, head_of, part_of
from outrider.models.cpu.packing import NativeParts, pack_checkpoint
from outrider.models.cpu.panels import VECTOR
from outrider.models.cpu.states import States, kept_places
from outrider.models.cpu.threads import Threads
from outrider.models.llama.base import OwnModel
from outrider.models.llama.config import DecoderConfig, read_config
from outrider.models.llama.packing import turns
from outrider.models.llama.rope import RotaryTable
from outrider.protocols import ChainDecoder, ChainRequest, Segment

_OUTSIDE = 2
"""Returned by a forward for a token outside the vocabulary."""

_MEASURED_BYTES = 100 << 20
"""Bytes of layers that are run to choose the number of threads."""

_FEW = 64
"""Up to this number of rows the arrays are kept and reused; a prefill allocates its own."""


class NativeDecoder(OwnModel):
    """A `LanguageModel` like `Decoder`, on the CPU.

    Attributes:
        dtype: dtype of the weights: `torch.float32`, `torch.bfloat16`, `torch.float16`,
            `torch.int8` or `INT4` (in groups), `CHANNELS`; None: as stored in the file.
            Logits are float32.
        device: the CPU.
        threads: number of threads for a forward, by its number of rows.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: DecoderConfig,
        parts: NativeParts,
        dtype: torch.dtype | None,
        *,
        name: str | None = None,
        threads: int | None = None,
        reason: str = "",
    ) -> None:
        self.dtype, self.device = dtype, torch.device("cpu")
        super().__init__(
            checkpoint,
            config,
            name=name,
            dtype=dtype or torch.int8,
            cache_dtype=torch.float32,
            device=self.device,
            num_parameters=parts.num_parameters,
            weight_bytes=parts.packed.weight_bytes,
        )
        self.info = replace(
            self.info,
            batch_invariant=True,
            threads_of=lambda rows: self.threads.of(rows),
            weights=described(checkpoint, dtype),
            cache="float32",
            weights_reason=reason,
        )
        self._parts = parts
        self._rotary = RotaryTable(config.rope, torch.float32, self.device)
        local = config.local_rope
        self._local_rotary = local and RotaryTable(local, torch.float32, self.device)
        self._packed = parts.packed
        self._run_layers: Sequence[int] = range(config.num_layers)
        self._keep(())
        self._head = head_of(parts.packed)
        self._stride = parts.packed.layout.head.panels * VECTOR
        self._names: NDArray[np.int32] | None = None
        self._rows = RowArrays(_FEW)
        self._lock, self._version = Exclusive(), 0
        self.threads = Threads.fixed(1)
        self.threads = Threads.fixed(threads) if threads else Threads.measured(self._brief())

    @classmethod
    def load(
        cls,
        path: str | Path | Checkpoint,
        *,
        dtype: torch.dtype | None = torch.int8,
        cache_dtype: torch.dtype = torch.float32,
        name: str | None = None,
        threads: int | None = None,
        reason: str = "",
    ) -> "NativeDecoder":
        """Load the folder at `path`, one layer at a time.

        Args:
            path: the folder, or an opened checkpoint.
            dtype: see the class.
            cache_dtype: dtype of keys and values: `torch.float32`, `torch.bfloat16`, or
                `torch.int8` for 8 bits with a scale for each 32 numbers of a head.
            name: its name in errors and reports.
            threads: threads for every forward; None measures the best number.
            reason: why this dtype was chosen, for reports.

        Raises:
            UnsupportedCheckpointError: an architecture that `Decoder` does not run either.
            CheckpointError: the folder is missing, damaged or holds other tensors; or the kernels
                are not available.
        """
        from outrider.kernels import reason_missing

        if library() is None:
            raise CheckpointError(
                f"the compiled kernels are missing: {reason_missing()}",
                hint="Install a C compiler, or use --dtype float32",
            )
        checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
        config = read_config(checkpoint.config)
        parts = pack_checkpoint(checkpoint, config, dtype)
        model = cls(checkpoint, config, parts, dtype, name=name, threads=threads, reason=reason)
        return model.with_cache(cache_dtype)

    def with_cache(self, dtype: torch.dtype) -> "NativeDecoder":
        """Return the model with caches of this dtype; it shares the weights."""
        if dtype == self._layout.dtype:
            return self
        other = copy(self)
        other._layout = layout = replace(self._layout, dtype=dtype)
        other.info = replace(
            self.info,
            cache=next(name for name, known in CACHE_DTYPES.items() if known == dtype),
            find_bytes_per_token=lambda: layout.bytes_per_token,
        )
        return other

    def _keep(self, states: Sequence[int]) -> None:
        order, layers = self._layout.kept, self._run_layers
        self._kept = kept_places(order, states, layers, self.num_layers)

    def use_head(self, packed: PackedModel, names: NDArray[np.int32]) -> None:
        """Use other weights, whose head has an output for each of the ids `names` only."""
        self._packed, self._names = packed, names
        self._parts = replace(self._parts, packed=packed)
        self._stride = packed.layout.head.panels * VECTOR

    def use_weights(self, parts: NativeParts) -> None:
        """Use weights of the same shapes from now on, between two rounds; caches are read anew."""
        with self._lock.held:
            self._parts, self._packed, self._head = parts, parts.packed, head_of(parts.packed)
            self._version += 1

    @property
    def packed(self) -> PackedModel:
        """The weights as the kernels read them."""
        return self._packed

    @property
    def chain_decoder(self) -> ChainDecoder:
        """The model itself: one compiled call writes a chain."""
        return self

    def embed(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens hidden"]:
        """Return the input embeddings of these ids."""
        ids = self._known(token_ids)
        out = torch.empty(len(ids), self.config.hidden_size)
        loaded: Any = library()
        model = ctypes.byref(self._packed.layout)
        loaded.outrider_embed(model, len(ids), ids.ctypes.data, out.data_ptr())
        return out

    def head_rows(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens hidden"]:
        """Return the rows of the output head for these tokens, in float32."""
        ids = self._known(token_ids)
        out = torch.empty(len(ids), self.config.hidden_size)
        loaded: Any = library()
        head = ctypes.byref(self._head.layout.head)  # of all tokens
        loaded.outrider_unpack(head, len(ids), ids.ctypes.data, out.data_ptr())
        return out

    def _known(self, token_ids: Sequence[int] | IntArray) -> NDArray[np.int32]:
        ids = np.ascontiguousarray(token_ids, dtype=np.int32)
        if len(ids) and not (ids.min() >= 0 and ids.max() < self.config.vocab_size):
            raise IndexError(f"a token is outside the vocabulary of {self.info.name}")
        return ids

    def _fresh_cache(self) -> NativeCache:
        if self._compression is not None:
            return NativeCompressedCache(self._layout, self._compression)
        return NativeCache(self._layout)

    def _borrowed(self, cache: DecoderCache) -> BorrowedNativeCache:
        return BorrowedNativeCache(cache)

    def subset(self, layers: LayerSet) -> "NativeDecoder":
        """Return the model made of `layers`: it shares the weights and the kind of cache."""
        layers.check(self.num_layers, self.info.name)
        part = copy(self)
        part._packed = part_of(self._parts.packed, layers)
        part._run_layers, part._kept = layers.layers, None
        part.info = replace(
            self.info,
            name=f"{self.info.name} ({layers})",
            weight_bytes=part._packed.weight_bytes,
        )
        return part

    def _brief(self) -> "NativeDecoder":
        """Return the first layers, of about 100 MB: their time depends on threads as that of all
        layers does.
        """
        sizes = itertools.accumulate(sum(halves) for halves in self._parts.packed.layer_bytes)
        count = 1 + sum(size < _MEASURED_BYTES for size in sizes)
        if count >= self.num_layers:
            return self
        return self.subset(LayerSet.of_layers(self.num_layers, range(count)))

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Apply the final norm and the head to residual streams."""
        count, states = len(states), states.float().contiguous()
        stride = self._head.layout.head.panels * VECTOR
        logits = torch.empty(count, stride)
        with self._lock.held:
            arrays = self._rows if count <= _FEW else RowArrays(count)
            arrays.fill_states(states)
            arrays.batch.logits_stride = stride
            arrays.batch.logits, arrays.batch.hidden = logits.data_ptr(), None
            arrays.batch.states = None
            if count:
                self._call(arrays, count, self._head)
        return logits[:, : self.config.vocab_size]

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments in one pass; `hidden` is the final normed state of the requested rows.

        Raises:
            ContextError: a token would lie beyond the context window.
        """
        if not segments:
            return []
        caches = [current(s.cache, self._version, self.info.name) for s in segments]
        with self._lock.held:
            self._read_to_points(caches)
            feeds = [c.feed(s, rows) for c, s, rows in zip(caches, segments, want, strict=True)]
            return self._run(feeds, caches)

    def write_chains(
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """Write each chain with the tokens that its sampler chooses; see `protocols.ChainDecoder`.

        One compiled call does forwards, choices and cache updates.

        Raises:
            ContextError: a token of the segments would lie beyond the context window.
        """
        if not all(chain.sampler.quick(len(chain.generated)) for chain in chains):
            return None
        with self._lock.held:
            return [self._write(chain, confidence) for chain in chains]

    def _write(self, chain: ChainRequest, confidence: float) -> IntArray:
        segment, sampler, depth = chain.segment, chain.sampler, chain.depth
        if depth < 1:
            return NO_IDS
        cache = current(segment.cache, self._version, self.info.name)
        self._read_to_points([cache])
        last = cache.num_speculative + len(segment.tokens) - 1 if len(segment.tokens) else -1
        feed = cache.feed(segment, as_ids([last]))
        rows = len(feed.tokens)
        last_place = int(feed.positions[-1]) + cache.places.lag
        depth = min(depth, self.info.context_length - last_place)
        arrays = self._rows if rows <= _FEW else RowArrays(rows)
        self._prepare(arrays, [feed], [cache], ahead=depth)
        logits = torch.empty(self._stride)
        arrays.batch.logits, arrays.batch.hidden = logits.data_ptr(), None
        arrays.batch.states, arrays.batch.confidence = None, confidence
        written = np.empty(depth, dtype=np.int32)
        trouble, ends = ctypes.c_int32(), np.fromiter(sampler.end_ids, dtype=np.int32)
        loaded: Any = library()
        count = loaded.outrider_write(
            ctypes.byref(self._packed.layout),
            pool(),
            self.threads.of(rows),
            self.threads.of(1),
            ctypes.byref(arrays.batch),
            ctypes.byref(sampler.kernel.layout),
            len(chain.generated),
            depth,
            ends.ctypes.data,
            len(ends),
            written.ctypes.data,
            ctypes.addressof(trouble),
        )
        self._check(trouble.value, rows)
        tokens = written[:count].astype(np.int64)
        read = tokens if trouble.value < 0 else tokens[:-1]
        if len(read):
            planned = cache.num_speculative
            cache.feed(Segment(cache, read), NO_IDS)
            if isinstance(cache, NativeCompressedCache):
                cache.unasked(planned)
        return tokens

    def _read_parts(self, feeds: Sequence[Feed], caches: Sequence[CompressedCache]) -> None:
        self._run(feeds, [narrowed(cache, NativeCache, self.info.name) for cache in caches])

    def _run(self, feeds: Sequence[Feed], caches: Sequence[NativeCache]) -> list[Rows]:
        rows = sum(len(feed.tokens) for feed in feeds)
        wanted = sum(len(feed.take) for feed in feeds)
        logits = torch.empty(wanted, self._stride)
        hidden = torch.empty(wanted, self.config.hidden_size)
        watched = watched_layers(caches)
        states = States(watched, self._run_layers, self.num_layers, hidden) if watched else None
        if rows:
            arrays = self._rows if max(rows, wanted) <= _FEW else RowArrays(max(rows, wanted))
            self._prepare(arrays, feeds, caches)
            arrays.batch.logits, arrays.batch.hidden = logits.data_ptr(), hidden.data_ptr()
            arrays.keep_states(states)
            arrays.keep_rows(feeds, caches, self._kept)
            self._call(arrays, rows, self._packed)
        out = self._split(feeds, logits, hidden)
        if states is None:
            return out
        return with_states(out, caches, watched, states.all(hidden))

    def _split(self, feeds: Sequence[Feed], logits: Tensor, hidden: Tensor) -> list[Rows]:
        """Split the results into the rows of each feed."""
        if self._names is not None:
            whole = torch.full((len(logits), self.config.vocab_size), -torch.inf)
            whole[:, self._names] = logits[:, : len(self._names)]
            logits = whole
        elif self._stride != self.config.vocab_size:
            logits = logits[:, : self.config.vocab_size]
        if len(feeds) == 1:
            return [Rows(logits, hidden)]
        counts = [len(feed.take) for feed in feeds]
        split = zip(logits.split(counts), hidden.split(counts), strict=True)
        return [Rows(own_logits, own_hidden) for own_logits, own_hidden in split]

    def _prepare(
        self,
        arrays: RowArrays,
        feeds: Sequence[Feed],
        caches: Sequence[NativeCache],
        ahead: int = 0,
    ) -> None:
        """Allocate space in the caches for the feeds and `ahead` further rows; fill `arrays`."""
        end = 0
        for feed, cache in zip(feeds, caches, strict=True):
            cache.reserve(feed.start, feed.end + ahead)
            end = max(
                end, feed.end + ahead + max(cache.places.shift, 0)
            )  # upper bound of all positions
        arrays.fill(feeds, caches)
        arrays.batch.logits_stride = self._stride
        arrays.batch.names = None if self._names is None else self._names.ctypes.data
        if any(feed.axes is not None for feed in feeds):
            arrays.turn_by(*turns(self._rotary, [*feeds, *following(feeds, ahead)], self.device))
        else:
            arrays.batch.cos, arrays.batch.sin = self._rotary.addresses(end)
        if self._local_rotary is not None:
            local = self._local_rotary.addresses(end)
            arrays.batch.local_cos, arrays.batch.local_sin = local

    def _call(self, arrays: RowArrays, rows: int, packed: PackedModel) -> None:
        loaded: Any = library()
        model, batch = ctypes.byref(packed.layout), ctypes.byref(arrays.batch)
        trouble = loaded.outrider_forward(model, pool(), self.threads.of(rows), batch)
        self._check(trouble, rows)

    def _check(self, trouble: int, rows: int) -> None:
        """Raise the error that a forward reports; negative codes are choices, not errors."""
        if trouble == _OUTSIDE:
            raise IndexError(f"a token is outside the vocabulary of {self.info.name}")
        if trouble > 0:
            raise MemoryError(f"no memory for a forward of {rows} rows of {self.info.name}")
