"""Runs masked denoisers of Llama's or Qwen2's shape in PyTorch: attention in both directions.

No row is hidden from another one, so no mask is needed, and keys may stand in any order: those of
computed rows first, then the stored ones.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.defaults import end_ids, recommended
from outrider.models.checkpoints.window import read_window
from outrider.models.denoisers.formats import DenoiserConfig
from outrider.models.denoisers.plan import Limits, Plan, check_keepers, planned
from outrider.models.denoisers.store import DenoiserStore, Owner, Runs, as_runs, taken, written
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.layers import (
    ACTIVATION_FUNCTIONS,
    added,
    embedded,
    feed_forward,
    logits_of,
    norm_heads,
    rms_norm,
)
from outrider.models.llama.rope import RotaryTable, rotate
from outrider.models.llama.weights import DecoderWeights, LayerWeights
from outrider.protocols.denoiser import Reading
from outrider.protocols.info import ModelInfo

Turns = tuple[Float[Tensor, "rows 1 head_dim"], Float[Tensor, "rows 1 head_dim"]]
"""Cosines and signed sines."""


class MaskedDenoiser:
    """A `Denoiser` over the weights of a checkpoint.

    Attributes:
        info: the properties of the model.
        config: its shape.
        weights: its weights.
        forwards: how many forwards have been computed so far.
        computed_rows: how many rows they computed, with those that a shifted model adds.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: DenoiserConfig,
        weights: DecoderWeights,
        *,
        name: str | None = None,
        threads: int | None = None,
    ) -> None:
        decoder, embed = config.decoder, weights.embed
        self.config, self.weights, self.threads = config, weights, threads
        self.forwards = self.computed_rows = 0
        per_token = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim
        unread = 0 if decoder.tied else embed.numel()
        fingerprint = checkpoint.fingerprint
        self.info = ModelInfo(
            name=name or checkpoint.path.resolve().name,
            vocab_size=decoder.vocab_size,
            context_length=decoder.context_length,
            context_reason=read_window(checkpoint.config).reason,
            find_fingerprint=lambda: fingerprint,
            find_bytes_per_token=lambda: per_token * embed.itemsize,
            end_ids=end_ids(checkpoint.generation, checkpoint.config),
            generation_defaults=recommended(checkpoint.generation),
            device=embed.device,
            dtype=embed.dtype,
            num_parameters=weights.num_parameters,
            weight_bytes=(weights.num_parameters - unread) * embed.itemsize,
            threads_of=None if threads is None else lambda _: threads,
        )
        self._rotary = RotaryTable(decoder.rope, embed.dtype, embed.device)
        self._owner = Owner()
        self._limits = Limits(
            name=self.info.name,
            vocab_size=decoder.vocab_size,
            context_length=decoder.context_length,
            shifted=config.shifted,
            owner=self._owner,
        )

    @property
    def mask_id(self) -> int:
        """The id of a masked position. Its logit is minus infinity in every prediction."""
        return self.config.mask_id

    def new_store(self, length: int) -> DenoiserStore:
        """Return an empty store for a text of `length` positions.

        Raises:
            ValueError: a negative length.
        """
        if length < 0:
            raise ValueError(f"a text of {length} positions")
        own, embed = self.config.decoder, self.weights.embed
        shape = (own.num_layers, own.num_kv_heads, length, own.head_dim)
        return DenoiserStore(shape, embed.dtype, embed.device, self._owner)

    @torch.inference_mode()
    def read(self, readings: Sequence[Reading]) -> list[Float[Tensor, "want vocab"]]:
        """Read the texts; return the logits of the wanted positions of each.

        Readings that compute, read and return equal numbers of rows are one batch.

        Raises:
            ContextError: a text is longer than the window.
            ValueError: see `planned`; or a reading keeps rows in a store that another one uses.
        """
        plans = [planned(reading, self._limits) for reading in readings]
        check_keepers(plans)
        groups: dict[tuple[int, int, int], list[int]] = {}
        for place, plan in enumerate(plans):
            groups.setdefault(plan.shape, []).append(place)
        out: dict[int, Tensor] = {}
        with _threads(self.threads):
            for places in groups.values():
                logits = self._batch([plans[place] for place in places])
                out.update(zip(places, logits, strict=True))
        return [out[place] for place in range(len(plans))]

    def _batch(self, plans: Sequence[Plan]) -> Sequence[Float[Tensor, "want vocab"]]:
        decoder, weights = self.config.decoder, self.weights
        rows, _, wanted = plans[0].shape
        self.forwards += bool(rows)
        self.computed_rows += rows * len(plans)
        if not rows:
            return [weights.embed.new_empty(0, decoder.vocab_size) for _ in plans]
        batch = _Batch.of(plans, self._rotary, weights.embed.device)
        hidden = embedded(batch.tokens, weights, decoder)
        for plan in plans:  # until all layers have written them
            if plan.store is not None:
                plan.store.valid[plan.keep] = False
        last = decoder.num_layers - 1
        for index, layer in enumerate(weights.layers):
            take = batch.take if index == last else None
            hidden = _layer(hidden, index, layer, batch, decoder, take)
        for plan in plans:
            if plan.store is not None:
                plan.store.valid[plan.keep] = True
        logits = logits_of(rms_norm(hidden, weights.norm, decoder.norm_eps), weights, decoder)
        logits[:, self.mask_id] = -torch.inf
        return logits.split(wanted) if wanted else [logits] * len(plans)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Readings of equal shape, whose rows are packed one text after the other.

    Attributes:
        texts: the number of texts.
        tokens: the ids `[texts * rows]`.
        turns: cosines and signed sines of all rows.
        take: the packed rows whose predictions are returned; None: all of them, in order.
        sources: for each text, or once if all texts share them, the store and the positions that
            are read from it.
        keepers: place, store, kept positions, and their places among the rows of a text (None:
            all rows) of the texts that keep rows.
        whole: the only text keeps all its rows, and the store then holds all its positions.
    """

    texts: int
    tokens: Tensor
    turns: Turns
    take: Tensor | None
    sources: Sequence[tuple[DenoiserStore, Runs]]
    keepers: Sequence[tuple[int, DenoiserStore, Runs, Tensor | None]]
    whole: bool

    @classmethod
    def of(cls, plans: Sequence[Plan], rotary: RotaryTable, device: torch.device) -> "_Batch":
        rows, stored, _ = plans[0].shape

        def on_device(array: IntArray) -> Tensor:
            return torch.from_numpy(array).to(device)

        positions = np.concatenate([plan.rows for plan in plans])
        take = np.concatenate([plan.take + i * rows for i, plan in enumerate(plans)])
        everything = len(take) == len(positions) and (take == np.arange(len(take))).all()
        keepers = [
            (
                place,
                plan.store,
                as_runs(plan.keep, device),
                None if len(plan.keep) == rows else on_device(plan.kept),
            )
            for place, plan in enumerate(plans)
            if plan.store is not None and len(plan.keep)
        ]
        first = plans[0]
        whole = len(plans) == 1 and len(first.keep) == rows
        return cls(
            texts=len(plans),
            tokens=on_device(np.concatenate([plan.tokens for plan in plans])),
            turns=rotary.at(on_device(positions), int(positions.max()) + 1),
            take=None if everything else on_device(take),
            sources=_sources(plans, device) if stored else [],
            keepers=keepers,
            whole=whole and first.store is not None and rows + stored == first.store.length,
        )


def _sources(plans: Sequence[Plan], device: torch.device) -> list[tuple[DenoiserStore, Runs]]:
    """Return stores and their positions: once if all texts read the same rows of one store."""
    first = plans[0]
    same = all(
        plan.store is first.store and np.array_equal(plan.stored, first.stored) for plan in plans
    )
    return [
        (plan.store, as_runs(plan.stored, device))
        for plan in (plans[:1] if same else plans)
        if plan.store is not None
    ]


def _layer(
    hidden: Float[Tensor, "rows hidden"],
    index: int,
    weights: LayerWeights,
    batch: _Batch,
    config: DecoderConfig,
    take: Tensor | None,
) -> Float[Tensor, "taken hidden"]:
    """Return the rows after a layer; with `take`, only those rows."""
    normed = rms_norm(hidden, weights.input_norm, config.norm_eps)
    mixed = _attention(normed, index, weights, batch, config)
    if take is not None:
        mixed, hidden = mixed[take], hidden[take]
    hidden = added(hidden, weights.output(mixed), weights.output_norm, config)
    normed = rms_norm(hidden, weights.mlp_norm, config.norm_eps)
    branch = feed_forward(weights, normed, ACTIVATION_FUNCTIONS[config.activation])
    return added(hidden, branch, weights.down_norm, config)


def _attention(
    x: Float[Tensor, "rows hidden"],
    index: int,
    weights: LayerWeights,
    batch: _Batch,
    config: DecoderConfig,
) -> Float[Tensor, "rows width"]:
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    packed = weights.qkv(x).view(len(x), heads + 2 * kv_heads, dim)
    turned, values = packed.split((heads + kv_heads, kv_heads), dim=1)
    if weights.qk_norm is not None:
        turned = norm_heads(turned, weights.qk_norm, config)
    turned = rotate(turned, *batch.turns)
    queries, keys = turned.split((heads, kv_heads), dim=1)
    texts, rows, group = batch.texts, len(x) // batch.texts, heads // kv_heads
    keys = keys.view(texts, rows, kv_heads, dim).transpose(1, 2)
    values = values.view(texts, rows, kv_heads, dim).transpose(1, 2)
    _keep(batch, index, keys, values)
    if batch.whole:
        store = batch.keepers[0][1]
        keys, values = store.keys[index][None], store.values[index][None]
    elif batch.sources:
        keys = _with_stored(keys, [taken(s.keys[index], runs) for s, runs in batch.sources])
        values = _with_stored(values, [taken(s.values[index], runs) for s, runs in batch.sources])
    # All rows see the same keys, so query heads that share keys are stacked as further rows.
    asked = queries.reshape(texts, rows, kv_heads, group, dim).permute(0, 2, 3, 1, 4)
    asked = asked.reshape(texts, kv_heads, group * rows, dim)
    out = F.scaled_dot_product_attention(asked, keys, values, scale=config.attention_scale)
    out = out.view(texts, kv_heads, group, rows, dim).permute(0, 3, 1, 2, 4)
    return out.reshape(len(x), heads * dim)


def _keep(batch: _Batch, index: int, keys: Tensor, values: Tensor) -> None:
    """Write rows of one layer to the stores that keep them."""
    for place, store, runs, kept in batch.keepers:
        own = (keys[place], values[place])
        if kept is not None:
            own = tuple(rows.index_select(1, kept) for rows in own)
        written(store.keys[index], runs, own[0])
        written(store.values[index], runs, own[1])


def _with_stored(
    fresh: Float[Tensor, "texts kv_heads rows head_dim"], stored: Sequence[Sequence[Tensor]]
) -> Float[Tensor, "texts kv_heads keys head_dim"]:
    """Append stored rows, of each text or shared by all of them, to the computed ones."""
    if len(fresh) == 1:
        return torch.cat((fresh[0], *stored[0]), dim=1)[None]
    if len(stored) == 1:
        shared = [part.expand(len(fresh), *part.shape) for part in stored[0]]
        return torch.cat((fresh, *shared), dim=2)
    return torch.stack(
        [torch.cat((own, *parts), dim=1) for own, parts in zip(fresh, stored, strict=True)]
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Context manager: PyTorch uses `count` threads; None changes nothing."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
