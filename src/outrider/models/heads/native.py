"""Runs a head with compiled kernels: 8 bits in groups, and a whole chain in one call."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.types import NO_IDS, IntArray, as_ids
from outrider.kernels import library, pool
from outrider.kernels.forking import Exclusive
from outrider.kernels.layout import (
    AS_IT_IS,
    BY_FUSE,
    BY_RECUR,
    DraftHead,
    HeadRows,
    Matrix,
    Promise,
)
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.narrowing import narrowed
from outrider.models.cpu.batch import RowArrays
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.packed_weights import Affine, EncodedLayer, EncodedMlp, Packer
from outrider.models.cpu.panels import VECTOR
from outrider.models.heads.cache import Following, NativeHeadCache
from outrider.models.heads.config import LAYER, MTP_NORMS, HeadKind
from outrider.models.heads.model import HeadInputs, HeadModel
from outrider.models.heads.module import HeadModule
from outrider.models.heads.native_hints import NativeHints
from outrider.models.quantization.grouped import Grouped, quantize_groups
from outrider.models.quantization.int4 import quantize_int4
from outrider.protocols import ChainDecoder, ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams

NOTHING_GROUPED: Mapping[str, Grouped] = MappingProxyType({})
_FEW = 64
_FOUR_BITS = 4
_CONTINUES = {
    HeadKind.HINTED: BY_RECUR,
    HeadKind.EAGLE3: AS_IT_IS,
    HeadKind.MTP: BY_FUSE,
    HeadKind.EAGLE1: BY_FUSE,
    HeadKind.FSPAD: BY_FUSE,
}


class NativeHead(HeadModel):
    """`HeadModel` in compiled code, beside a `NativeDecoder`.

    Chains are drafted in one call, which leaves no rows of drafted tokens in the cache.

    Args:
        module: the head.
        tensors: its tensors (`HeadConfig.shapes`).
        target: the model whose states it reads; it keeps the states of the head.
        name: its name in errors and reports.
        dtype: `torch.int8` for 8 or 4 bits in groups, or `torch.float32`.
        grouped: its matrices as small integers; others are rounded to 8 bits. The rows of the
            target's head get 4 bits where all matrices have 4.
    """

    def __init__(
        self,
        module: HeadModule,
        tensors: dict[str, Tensor],
        target: NativeDecoder,
        name: str,
        dtype: torch.dtype = torch.int8,
        grouped: Mapping[str, Grouped] = NOTHING_GROUPED,
    ) -> None:
        super().__init__(module, tensors, target, name)
        self._packed = _PackedHead(module, tensors, target, dtype, grouped)
        del self.module  # its weights are packed; they would take four times as much again
        self.threads = target.threads
        self._hinted = self.config.kind is HeadKind.HINTED
        self.info = replace(self.info, dtype=dtype, weight_bytes=self._packed.nbytes)
        self._rows = RowArrays(_FEW)
        self._lock = Exclusive()

    @property
    def chain_decoder(self) -> ChainDecoder:
        """The head itself: one compiled call drafts a chain."""
        return self

    def _chain_of(self, cache: Following, depth: int) -> None:
        sampler = Sampler(SamplingParams())
        self.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, (), depth)])

    def _owns(self, cache: Following) -> bool:
        return isinstance(cache, NativeHeadCache) and cache.layout is self._layout

    def _fresh_cache(self) -> Following:
        return NativeHeadCache(self._layout)

    def _fresh_hints(self) -> NativeHints:
        return NativeHints(self._table)

    def write_chains(
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """Write each chain; see `protocols.ChainDecoder`. None if a segment drafts after tokens of
        another drafter.

        Raises:
            ContextError: a token of the text would lie beyond the context window.
        """
        if any(len(chain.segment.tokens) for chain in chains):
            return None
        if not all(chain.sampler.quick(len(chain.generated)) for chain in chains):
            return None
        with self._lock.held:
            return [self._write(chain, confidence, None) for chain in chains]

    def draft(
        self, chain: ChainRequest, chances: NDArray[np.float32], least: float
    ) -> tuple[IntArray, NDArray[np.int32]]:
        """Write a chain up to the token that is unlikely to be kept.

        Args:
            chain: a chain whose segment has no tokens, and whose sampler is `quick`.
            chances: `[CHANCES]` chance that a token is right, by its probability in equal classes.
            least: the chain ends with the first token that is right, with all tokens before it,
                with a smaller chance.

        Returns:
            The tokens, and the class of the probability of each of them at the sampler's
            temperature (1 where that is 0).

        Raises:
            ContextError: a token of the text would lie beyond the context window.
        """
        found = np.zeros(max(chain.depth, 1), dtype=np.int32)
        promise = Promise(chances.ctypes.data, least, found.ctypes.data)
        with self._lock.held:
            tokens = self._write(chain, 0.0, promise)
        return tokens, found[: len(tokens)]

    def _write(self, chain: ChainRequest, confidence: float, promise: Promise | None) -> IntArray:
        sampler = chain.sampler
        cache = narrowed(chain.segment.cache, NativeHeadCache, self.info.name)
        if chain.depth < 1:
            return NO_IDS
        start, count = cache.length, len(cache.pending)
        feed = cache.feed(chain.segment, as_ids([-1]))
        depth = min(chain.depth, cache.context_length - int(feed.positions[-1]))
        inputs = self._inputs(cache, 0, count, count, 0)
        arrays = self._prepare(cache, feed, ahead=depth)
        rows = self._point(arrays, inputs)
        arrays.batch.confidence = confidence
        first = torch.empty(1, self.config.width)
        written, trouble = np.empty(depth, dtype=np.int32), ctypes.c_int32()
        ends = np.fromiter(sampler.end_ids, dtype=np.int32)
        hints = cache.hints
        table = hints.layout if isinstance(hints, NativeHints) and self._hinted else None
        loaded: Any = library()
        made = loaded.outrider_head_write(
            ctypes.byref(self._packed.layout),
            pool(),
            self.threads.of(count),
            self.threads.of(1),
            ctypes.byref(arrays.batch),
            ctypes.byref(rows),
            None if table is None else ctypes.byref(table),
            int(cache.source.text[cache.offset + start + count - 1]),
            ctypes.byref(sampler.kernel.layout),
            len(chain.generated),
            depth,
            ends.ctypes.data,
            len(ends),
            None if promise is None else ctypes.byref(promise),
            first.data_ptr(),
            written.ctypes.data,
            ctypes.addressof(trouble),
        )
        self._check(trouble.value, count)
        cache.outputs = first
        return written[:made].astype(np.int64)

    def _run(
        self, cache: Following, feed: Feed, inputs: HeadInputs, keep: IntArray
    ) -> tuple[Tensor, Tensor]:
        own = narrowed(cache, NativeHeadCache, self.info.name)
        head = self._packed.layout.layer.contents.head
        logits = torch.empty(len(keep), head.panels * VECTOR)
        outputs = torch.empty(len(keep), self.config.width)
        count = len(feed.tokens)
        with self._lock.held:
            arrays = self._prepare(own, replace(feed, take=keep))
            rows = self._point(arrays, inputs)
            arrays.batch.logits = logits.data_ptr()
            arrays.batch.logits_stride = logits.shape[1]
            loaded: Any = library()
            trouble = loaded.outrider_head(
                ctypes.byref(self._packed.layout),
                pool(),
                self.threads.of(count),
                ctypes.byref(arrays.batch),
                ctypes.byref(rows),
                outputs.data_ptr(),
            )
        self._check(trouble, count)
        return logits[:, : self.config.draft_vocab], outputs

    def _prepare(self, cache: NativeHeadCache, feed: Feed, ahead: int = 0) -> RowArrays:
        """Allocate space in the cache for the feed and `ahead` further rows; fill the arrays."""
        cache.reserve(feed.start, feed.end + ahead)
        size = max(len(feed.tokens), len(feed.take))
        arrays = self._rows if size <= _FEW else RowArrays(size)
        arrays.fill([feed], [cache])
        arrays.batch.states, arrays.batch.confidence = None, 0.0
        end = int(feed.positions.max()) + 1 + ahead
        arrays.batch.cos, arrays.batch.sin = self._rotary.addresses(end)
        return arrays

    def _point(self, arrays: RowArrays, inputs: HeadInputs) -> HeadRows:
        """Describe what the rows read beside their tokens."""
        read = inputs.outputs if inputs.states is None else inputs.states
        assert read is not None  # a row has states or an output before it
        return arrays.point_head(
            read,
            continued=inputs.states is None,
            hints=inputs.hints,
            levels=inputs.levels,
        )

    def _check(self, trouble: int, rows: int) -> None:
        if trouble == 2:
            raise IndexError(f"a token is outside the vocabulary of {self.info.name}")
        if trouble > 0:
            raise MemoryError(f"no memory for a forward of {rows} rows of {self.info.name}")


class _PackedHead:
    """The weights of a head as the kernels read them."""

    def __init__(
        self,
        module: HeadModule,
        tensors: dict[str, Tensor],
        target: NativeDecoder,
        dtype: torch.dtype,
        grouped: Mapping[str, Grouped],
    ) -> None:
        self._module, self._dtype, self._target = module, dtype, target
        self._grouped = grouped if dtype == torch.int8 else NOTHING_GROUPED
        config = self._config = module.config
        packer = self._packer = Packer(config.layer)
        layer = packer.layer(0, self._layer())
        head = self._output_rows()
        norm = None if config.predicts_states else module.part("norm.weight").detach()
        self._model = packer.model(head, norm, None, [layer])
        self._model.layout.vocab = config.target_vocab
        self._embedding = type(target.packed.layout).from_buffer_copy(target.packed.layout)
        if (own := tensors.get("embed_tokens.weight")) is not None:
            self._embedding.embed = packer.matrix(own.float())
            self._embedding.embed_scale = 1.0
        self._ids = np.ascontiguousarray(tensors["ids"].numpy(), dtype=np.int32)
        self._place = np.full(config.target_vocab, -1, dtype=np.int32)
        self._place[self._ids] = np.arange(len(self._ids))
        self.layout = self._head()
        self.nbytes = packer.arena.nbytes
        del self._module

    def _head(self) -> DraftHead:
        config, part = self._config, self._module.part
        hinted, joins = config.kind is HeadKind.HINTED, config.kind is HeadKind.EAGLE3
        layout = DraftHead(
            layer=ctypes.pointer(self._model.layout),
            target=ctypes.pointer(self._embedding),
            ids=self._ids.ctypes.data,
            place=self._place.ctypes.data,
            states=len(config.states),
            state_width=config.target_width,
            joins=joins,
            continues=_CONTINUES[config.kind],
            normed_stream=config.norm_before_residual and joins,
            normed_output=config.norm_output or not joins,
        )
        if config.predicts_states:
            layout.token, layout.fuse = self._halves()
            layout.bias = self._vector(part("fc.bias")) if config.fuse_bias else None
            for name in ("up", "gate", "down") if config.sampling else ():
                setattr(layout, name, self._packed_matrix(f"sampling.{name}.weight"))
            return layout
        if config.kind is HeadKind.MTP:
            layout.token, layout.fuse = self._halves()
            token_norm, state_norm = (part(f"{name}.weight") for name in MTP_NORMS)
            layout.token_norm, layout.state_norm = (
                self._vector(token_norm),
                self._vector(state_norm),
            )
            return layout
        layout.fuse = self._packed_matrix("fc.weight")
        if config.norm_states:
            name, parts = "fc_norm.weight", self._module.tensors()
            weights = parts.get(name, torch.ones(len(config.states), config.target_width))
            layout.state_norm = self._vector(weights.flatten())
        if config.norm_fused:
            layout.fused_norm = self._vector(self._module.part("fc_input_norm.weight"))
        if hinted:
            for name in ("recur", "token", "hint"):
                setattr(layout, name, self._packed_matrix(f"{name}.weight"))
            layout.levels = self._vector(part("levels").flatten())
            layout.token_norm = self._vector(torch.ones(config.width))
        else:
            layout.token_norm = self._vector(part(f"{LAYER}input_layernorm.weight"))
            layout.hidden_norm = self._vector(part(f"{LAYER}hidden_norm.weight"))
        return layout

    def _layer(self) -> EncodedLayer:
        config, part = self._config, self._module.part
        joins = config.kind is HeadKind.EAGLE3
        # the input norm is part of what EAGLE-3 joins, except that of the stream
        stream_norm = "hidden_norm.weight" if joins else "input_layernorm.weight"
        is_normed = config.predicts_states or (joins and config.norm_before_residual)
        layer = config.layer
        norms = (
            [part(f"{LAYER}self_attn.{n}_norm.weight").detach() for n in "qk"]
            if layer.qk_norm
            else []
        )
        return EncodedLayer(
            input_norm=None if is_normed else part(LAYER + stream_norm).detach(),
            qkv=Affine(
                parts=[self._part(f"{LAYER}self_attn.{n}_proj.weight") for n in "qkv"],
                bias=torch.cat([part(f"{LAYER}self_attn.{n}_proj.bias").detach() for n in "qkv"])
                if layer.qkv_bias
                else None,
            ),
            qk_norm=(norms[0], norms[1]) if norms else None,
            output=Affine(parts=[self._part(f"{LAYER}self_attn.o_proj.weight")]),
            mlp_norm=part(f"{LAYER}post_attention_layernorm.weight").detach(),
            mlp=EncodedMlp(
                gate_up=Affine(
                    parts=[self._part(f"{LAYER}mlp.{n}_proj.weight") for n in ("gate", "up")]
                ),
                down=Affine(parts=[self._part(f"{LAYER}mlp.down_proj.weight")]),
            ),
        )

    def _halves(self) -> tuple[Matrix, Matrix]:
        """Return the columns of `fc` for the token, and those for the state."""
        token, state = self._module.part("fc.weight").split(self._config.width, dim=1)
        token, state = (self._encoded(half.contiguous()) for half in (token, state))
        return self._packer.matrix(token), self._packer.matrix(state)

    def _output_rows(self) -> Any:
        """Return the rows that score the draft vocabulary."""
        own, rows = self._grouped.get("lm_head.weight"), self._module.output_rows()
        fine = [matrix.bits == _FOUR_BITS for matrix in self._grouped.values()]
        if own is None and fine and all(fine):
            return quantize_int4(rows.detach())
        return self._encoded(rows) if own is None else own

    def _part(self, name: str) -> Any:
        own = self._grouped.get(name)
        return self._encoded(self._module.part(name)) if own is None else own

    def _encoded(self, weight: Tensor) -> Any:
        plain = weight.detach().float()
        return quantize_groups(plain) if self._dtype == torch.int8 else plain

    def _packed_matrix(self, name: str) -> Matrix:
        return self._packer.matrix(self._part(name))

    def _vector(self, vector: Tensor) -> int:
        return self._packer.vector(vector.detach())
