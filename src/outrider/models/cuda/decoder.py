"""Llama-shaped checkpoints on an accelerator: forwards of static shape, captured and replayed."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import LogitsError
from outrider.core.types import NO_IDS, IntArray, Rows, as_ids
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.watching import watched_layers
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.cuda.chain_writer import RUN, Pen
from outrider.models.cuda.choosing import UNDECIDED, Chooser, chooser_for
from outrider.models.cuda.inputs import Inputs, Outputs, width_for
from outrider.models.cuda.network import Network
from outrider.models.cuda.row_choices import RowChoices
from outrider.models.cuda.runner import EagerRunner, Runner, runner_for
from outrider.models.cuda.storage import StaticCache, StoragePool
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.weights import DecoderWeights
from outrider.protocols import ChainDecoder, ChainRequest, Segment

MOST_TEXTS = 2
"""Largest number of texts that one forward reads one after the other; more share a packed
forward.
"""


class StaticDecoder(Decoder):
    """A `Decoder` for one text at a time, whose short forwards have static shapes.

    Rows are padded to one of `WIDTHS`, and caches have one of a few capacities. Each pair is one
    program: captured if the device has graphs and the model no experts, called otherwise. Prefill,
    batches and forwards that return nothing use the code of `Decoder` over the same caches, as do
    models made of some of the layers (`subset`). Rows have a `chooser`, and `write_chains` drafts
    without the host. Not safe for use by two threads at once.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: DecoderConfig,
        weights: DecoderWeights,
        *,
        name: str | None = None,
        runner: Runner | None = None,
    ) -> None:
        super().__init__(checkpoint, config, weights, name=name)
        self.pool = StoragePool(self._layout)
        # the host must know which experts are chosen, so their forwards cannot be captured
        self._runner = runner or (EagerRunner() if config.experts else runner_for(self.device))
        self._network = Network(config, weights)
        self._inputs: dict[tuple[int, int], Inputs] = {}
        self._outputs: dict[tuple[int, tuple[int, ...]], Outputs] = {}
        self._pen = Pen(self._network, self._runner, self._outputs_for(1))
        self._choices = RowChoices(self._runner, config.vocab_size, weights.embed)

    @property
    def chain_decoder(self) -> ChainDecoder:
        """The model itself: a draft synchronizes with the host once."""
        return self

    def keeping(self, layers: Sequence[int]) -> "StaticDecoder":
        """Return the model with caches that store hidden states; see `protocols.HiddenStates`.

        Its forwards are not captured.
        """
        other = super().keeping(layers)
        other.pool = StoragePool(other._layout)
        return other

    def under(self, policy: KvPolicy) -> Decoder:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the model with caches under a policy; its forwards are not captured."""
        plain = object.__new__(Decoder)
        plain.__dict__.update(self.__dict__)
        return plain.under(policy)

    def _fresh_cache(self) -> StaticCache:
        return StaticCache(self._layout, self.pool)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments; `hidden` is the final normed state of the requested rows.

        Raises:
            ContextError: a token would lie beyond the context window.
        """
        caches = [narrowed(s.cache, StaticCache, self.info.name) for s in segments]
        if not self._layout.kept and _are_short(segments, caches, want):
            feeds = [c.feed(s, rows) for c, s, rows in zip(caches, segments, want, strict=True)]
            rows = [self._read_short(*pair) for pair in zip(feeds, caches, strict=True)]
        else:
            rows = super().forward(segments, want)
        return [replace(r, chooser=partial(self._choose, r.logits)) for r in rows]

    @torch.inference_mode()
    def write_chains(
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """Write each chain with the tokens that its sampler chooses.

        See `protocols.ChainDecoder`. Returns None, without changes, if a `confidence` is given or
        if there are more than a few texts, which are faster to read together.

        Raises:
            ContextError: a token of the segments would lie beyond the context window.
        """
        if confidence > 0:
            return None
        choosers = [chooser_for(chain.sampler, len(chain.generated)) for chain in chains]
        known = [chooser for chooser in choosers if chooser is not None]
        if len(known) < len(chains) or len(chains) > MOST_TEXTS:
            return None
        return [
            self._write_text(chain.segment, chooser, chain.generated, chain.depth)
            for chain, chooser in zip(chains, known, strict=True)
        ]

    # -- one forward ------------------------------------------------------------------------

    def _read_short(self, feed: Feed, cache: StaticCache) -> Rows:
        width = width_for(len(feed.tokens))
        assert width is not None  # _are_short has checked it
        cache.reserve(feed.start, feed.end)
        watched = watched_layers([cache])
        storage, outputs = cache.static_storage, self._outputs_for(width, watched)
        inputs, key = self._inputs_for(width, storage.capacity), (width, watched)
        if key not in storage.programs:
            inputs.park()
            storage.programs[key] = self._runner.prepare(
                partial(self._network.read, inputs, storage.keys, storage.values, outputs)
            )
        inputs.load(feed, cache)
        storage.programs[key]()
        rows = len(feed.take)
        out = Rows(outputs.logits[:rows].clone(), outputs.hidden[:rows].clone())
        if cache.watched is None:
            return out
        states = [outputs.states[layer][:rows] for layer in cache.watched]
        return replace(out, states=torch.stack(states) if states else None)

    def _inputs_for(self, width: int, capacity: int) -> Inputs:
        key = (width, capacity)
        if key not in self._inputs:
            windowed = any(self.config.windows)
            self._inputs[key] = Inputs(width, capacity, self.device, windowed=windowed)
        return self._inputs[key]

    def _outputs_for(self, width: int, watched: tuple[int, ...] = ()) -> Outputs:
        key = (width, watched)
        if key not in self._outputs:
            self._outputs[key] = Outputs(width, self.config, self.weights.embed, watched)
        return self._outputs[key]

    @torch.inference_mode()
    def _choose(self, logits: Tensor, sampler: Any, indices: IntArray) -> IntArray | None:
        return self._choices.of(logits, sampler, indices)

    # -- one draft --------------------------------------------------------------------------

    def _write_text(
        self, segment: Segment, chooser: Chooser, generated: Sequence[int], depth: int
    ) -> IntArray:
        """Write tokens up to the depth, the window, an end token, or unusable logits.

        Between two runs the host decides rows that the device could not decide.
        """
        cache = narrowed(segment.cache, StaticCache, self.info.name)
        ends = chooser.sampler.end_ids
        written: list[int] = []
        while len(written) < depth:
            logits = self._read_end(segment)
            left = self.config.context_length - cache.frontier().position - cache.places.lag
            depth = min(depth, len(written) + left + 1)
            before = [*generated, *written]
            run = self._run(cache, logits, chooser, len(before), min(depth - len(written), RUN))
            sure = _sure(run, ends)
            if len(sure) < len(run) and not (sure and sure[-1] in ends):
                cache.feed(Segment(cache, as_ids(sure)), NO_IDS)
                try:
                    row = self._pen.row(len(sure))
                    sure.append(chooser.sampler.choose(row, [*before, *sure]))
                except LogitsError:
                    return as_ids([*written, *sure])
            elif len(sure) > 1:
                cache.feed(Segment(cache, as_ids(sure[:-1])), NO_IDS)
            written += sure
            if written[-1] in ends:
                break
            segment = Segment(cache, as_ids(written[-1:]))
        return as_ids(written)

    def _read_end(self, segment: Segment) -> Float[Tensor, "1 vocab"]:
        """Read the segment; return the logits after its last row."""
        last = segment.cache.num_speculative + len(segment.tokens) - 1
        want = as_ids([last if len(segment.tokens) else -1])
        [rows] = self.forward([segment], [want])
        return rows.logits

    def _run(
        self, cache: StaticCache, logits: Tensor, chooser: Chooser, index: int, count: int
    ) -> IntArray:
        slot = cache.frontier().slot
        cache.reserve(slot, slot + count - 1)
        inputs = self._inputs_for(1, cache.static_storage.capacity)
        return self._pen.run(cache, inputs, logits, chooser, index, count)


def _are_short(
    segments: Sequence[Segment], caches: Sequence[StaticCache], want: Sequence[IntArray]
) -> bool:
    """Whether there are few texts, each fits a program, and each returns rows."""
    return 0 < len(segments) <= MOST_TEXTS and all(
        _is_short(*parts) for parts in zip(segments, caches, want, strict=True)
    )


def _is_short(segment: Segment, cache: StaticCache, want: IntArray) -> bool:
    unread = 0 if cache.fed else len(cache.pending)
    if segment.prompts is not None:
        return False
    if unread and (cache.embeddings is not None or cache.pending_axes is not None):
        return False
    rows = unread + len(segment.tokens)
    return 0 < len(want) <= (width_for(rows) or 0)


def _sure(run: IntArray, ends: Collection[int]) -> list[int]:
    """Return the tokens of a run up to the first end token, or before the first undecided one."""
    tokens: list[int] = []
    for token in run:
        if token == UNDECIDED:
            break
        tokens.append(int(token))
        if token in ends:
            break
    return tokens
