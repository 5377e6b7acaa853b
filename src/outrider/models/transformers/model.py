"""Runs any causal language model of `transformers`: one sequence at a time, for correctness.

For an image-text model it runs the text stack; `models/vision/encoder.py` makes embeddings of
images. Explicit positions and 4D masks set which tokens attend to which. Models that ignore them,
or whose state cannot be rolled back, are refused by name when they are loaded.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from outrider.core.errors import StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import IntArray, Piece, Prompt, Rows, as_ids
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.borrowed import Borrowed, not_lent
from outrider.models.caches.masks import AttentionLayout
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.prefill import start_caches
from outrider.models.caches.rearranging import rearrange
from outrider.models.caches.watching import check_states, not_kept, watch
from outrider.models.checkpoints.defaults import end_ids, recommended
from outrider.models.checkpoints.window import read_window
from outrider.models.transformers.cache import BorrowedTransformersCache, TransformersCache
from outrider.models.transformers.layers import LayerModules, find_layers
from outrider.models.transformers.pretrained import (
    load_pretrained,
    refuse_unfit,
    sampled_fingerprint,
)
from outrider.models.transformers.tree_check import WINDOW, check_trees
from outrider.protocols import (
    Cache,
    HiddenStates,
    LanguageModel,
    Layered,
    ModelInfo,
    Segment,
    Segmented,
)

_NO_LIMIT = 1 << 20
"""Context length of a model whose configuration sets none."""


class TransformersModel:
    """A `LanguageModel` around a causal model of `transformers`.

    Args:
        model: the model; it is put into evaluation mode.
        name: its name in errors and reports; None uses the name of its class.
        fingerprint: identifies the weights in calibrations; None computes it from samples of the
            weights.

    Raises:
        CheckpointError: it is an encoder-decoder, keeps a recurrent state, uses an attention
            kernel without masks, or gives wrong results for a small draft tree (`tree_check.py`).
    """

    selector = chain_decoder = None

    def __init__(
        self, model: PreTrainedModel, *, name: str | None = None, fingerprint: str | None = None
    ) -> None:
        name = name or type(model).__name__
        refuse_unfit(model.config, name, type(model))
        self.model = model.eval()
        self.layout = AttentionLayout.of(model.config, name)
        self.info = self._describe(name, fingerprint)
        self._kept: LayerSet | None = None
        parameters = inspect.signature(model.forward).parameters
        self._keeps_rows = "logits_to_keep" in parameters
        with self.layout.narrowed(WINDOW):
            self.info = replace(self.info, narrow_dtype=check_trees(self))

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> "TransformersModel":
        """Load a folder, or a name on the Hugging Face hub, from safetensors.

        Raises:
            CheckpointError: the model cannot be read, or cannot be run (see the class).
        """
        name = name or Path(source).expanduser().resolve().name
        model, fingerprint = load_pretrained(
            source, name=name, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        return cls(model, name=name, fingerprint=fingerprint)

    # -- description ------------------------------------------------------------------------

    @property
    def _text(self) -> Any:
        return self.model.config.get_text_config(decoder=True)

    @property
    def hidden_size(self) -> int:
        """Size of the rows that `embed` returns."""
        return int(self._embedding.shape[-1])

    @property
    def _embedding(self) -> Tensor:
        return self.model.get_input_embeddings().weight  # pyright: ignore[reportReturnType]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights, keys and values."""
        return self._embedding.dtype

    @property
    def device(self) -> torch.device:
        """Device of the input ids."""
        return self._embedding.device

    def _describe(self, name: str, fingerprint: str | None) -> ModelInfo:
        found = getattr(self.model, "generation_config", None)
        defaults = {} if found is None else recommended(found.to_diff_dict())
        rope = getattr(self._text, "rope_parameters", None) or {}
        window = read_window(self._text.to_dict())
        return ModelInfo(
            name=name,
            vocab_size=_head_width(self.model),
            context_length=window.tokens or _NO_LIMIT,
            context_reason=window.reason,
            find_fingerprint=cache(lambda: fingerprint or sampled_fingerprint(self.model)),
            find_bytes_per_token=cache(self._measure_bytes),
            end_ids=end_ids(defaults, self._text.to_dict()),
            generation_defaults=defaults,
            reads_axes="mrope_section" in rope,
            device=self.device,
            dtype=self.dtype,
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

    def _measure_bytes(self) -> int:
        """Return the bytes of keys and values that one token takes in the cache."""
        [own] = self.start([Prompt(token_ids=(0, 0))])
        return own.nbytes

    # -- capabilities -----------------------------------------------------------------------

    @property
    def layered(self) -> Layered:
        """The model itself; `subset` raises if the layers cannot be separated."""
        return self

    @property
    def segmented(self) -> Segmented:
        """The model itself: it can rearrange its caches."""
        return self

    @property
    def hidden_states(self) -> HiddenStates:
        """The model itself; `watch` raises if hidden states are not available."""
        return self

    # -- operations -------------------------------------------------------------------------

    @torch.no_grad()
    def embed(self, tokens: Sequence[int] | IntArray) -> Float[Tensor, "tokens hidden"]:
        """Return the input embeddings of `tokens`, for use in `Prompt.embeddings`."""
        return self.model.get_input_embeddings()(self._ids(tokens)[None])[0]

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[TransformersCache]:
        """Create one cache for each prompt. Raises `ContextError`."""
        old = None if reuse is None else [self._own(cache) for cache in reuse]
        return start_caches(
            self, prompts, old, lambda: TransformersCache(self.info.context_length, self)
        )

    @property
    def reads_gaps(self) -> bool:
        """True: each row has an explicit position."""
        return True

    def rearrange(self, caches: Sequence[Cache], texts: Sequence[Sequence[Piece]]) -> None:
        """Rearrange each cache so that its text equals its pieces; see `protocols.Segmented`.

        Raises:
            ContextError: a text does not fit into the window.
            ValueError: kept tokens are not in order, or would need another position.
        """
        rearrange(self, caches, texts)

    # -- subsets of layers ------------------------------------------------------------------

    @cached_property
    def _modules(self) -> LayerModules:
        ids = self._ids(range(1, min(5, self.info.vocab_size)))[None]
        return find_layers(
            self.model, self.info.name, lambda: self.model(ids, use_cache=False).logits
        )

    @property
    def num_layers(self) -> int:
        """Number of layers of the full model."""
        return int(self._text.num_hidden_layers)

    def subset(self, layers: LayerSet) -> "TransformersModel":
        """Return the model made of `layers`: the other layers add nothing while it runs.

        Raises:
            StrategyError: the layers of this architecture cannot be separated.
        """
        layers.check(self.num_layers, self.info.name)
        assert self._modules  # found before the copy, and shared by all copies
        part = copy(self)
        part.info, part._kept = replace(self.info, name=f"{self.info.name} ({layers})"), layers
        return part

    def borrow(self, cache: Cache) -> BorrowedTransformersCache:
        """Create a cache over the committed rows of `cache`.

        Raises `StrategyError` if it belongs to another model.
        """
        own = self._own(cache)
        if own is None or isinstance(own, Borrowed):
            raise not_lent(self.info.name)
        return BorrowedTransformersCache(own)

    @property
    def width(self) -> int:
        """Size of the hidden state of one row."""
        return int(self._text.hidden_size)

    def watch(self, cache: Cache, layers: Sequence[int] | None) -> None:
        """Choose the layers of `Rows.states` of `cache`; see `protocols.HiddenStates`."""
        own = cache if isinstance(cache, TransformersCache) else None
        filler = own.owner if own is not None else None
        is_own = isinstance(filler, TransformersModel) and filler.model is self.model
        watch(own if is_own else None, layers, self.num_layers, self.info.name)
        if layers is not None and self._shown_states != self.num_layers + 1:
            raise StrategyError(
                f"{self.info.name} returns {self._shown_states} hidden states for "
                f"{self.num_layers} layers",
                hint="Use a model whose forward takes output_hidden_states",
            )

    def keeping(self, layers: Sequence[int]) -> LanguageModel:
        """Raise `StrategyError`: caches of this runner store keys and values only."""
        check_states(layers, self.num_layers, self.info.name)
        raise not_kept(self.info.name)

    def head_rows(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens width"]:
        """Raise `StrategyError`: heads do not run beside this runner."""
        raise not_kept(self.info.name)

    def kept(self, cache: Cache, start: int, stop: int) -> Float[Tensor, "rows layers hidden"]:
        """Raise `StrategyError`: caches of this runner store keys and values only."""
        raise not_kept(self.info.name)

    @cached_property
    def _shown_states(self) -> int:
        ids = self._ids([0])[None]
        with torch.no_grad():
            out = self.model(ids, use_cache=False, output_hidden_states=True)
        return len(out.hidden_states or ())

    @torch.no_grad()
    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Apply the final norm and the head to residual streams."""
        return self._modules.read_out(states)

    # -- one forward ------------------------------------------------------------------------

    def _own(self, cache: Cache | None) -> TransformersCache | None:
        """Return `cache` if this model filled it, else None."""
        if isinstance(cache, TransformersCache) and cache.owner is self:
            return cache
        return None

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments one after the other; `hidden` is the input of the head.

        Raises:
            ContextError: a token would lie beyond the context window.
        """
        caches = [narrowed(s.cache, TransformersCache, self.info.name) for s in segments]
        parts = zip(caches, segments, want, strict=True)
        return [self._read(own, own.feed(s, rows)) for own, s, rows in parts]

    @torch.no_grad()
    def _read(self, cache: TransformersCache, feed: Feed) -> Rows:
        """Append the feed's rows to the cache; return the requested rows."""
        if not len(feed.tokens):
            return self._nothing(cache)
        cache.cut(feed.start)
        take = self._ids(feed.take)
        slots = cache.slot_positions(feed.end)
        with ExitStack() as stack:
            read = stack.enter_context(_inputs_of(self.model.get_output_embeddings()))
            if self._kept is not None:
                stack.enter_context(self._modules.only(self._kept))
            out = self.model(
                **self._inputs(feed),
                position_ids=self._places(feed),
                attention_mask=self.layout.masks(feed, slots, self.dtype, self.device),
                past_key_values=cache.storage,
                use_cache=True,
                **({"logits_to_keep": take} if self._keeps_rows else {}),
                **({"output_hidden_states": True} if cache.watched else {}),
            )
        rows = slice(None) if self._keeps_rows else take.to(out.logits.device)
        found = Rows(out.logits[0, rows], read[0][0, rows] if read else None)
        if not cache.watched:
            return found
        states = [out.hidden_states[layer][0] for layer in cache.watched]
        return replace(found, states=torch.stack([s[take.to(s.device)] for s in states]))

    def _nothing(self, cache: TransformersCache) -> Rows:
        like = {"dtype": self.dtype, "device": self.device}
        rows = Rows(torch.empty(0, self.info.vocab_size, **like))
        if not cache.watched:
            return rows
        return replace(rows, states=torch.empty(len(cache.watched), 0, self.width, **like))

    def _places(self, feed: Feed) -> Tensor:
        """Return `[1, n]` positions, or `[3, 1, n]` if rows have several places."""
        if feed.axes is None:
            return self._ids(feed.positions)[None]
        return self._ids(feed.axes)[:, None]

    def _inputs(self, feed: Feed) -> dict[str, Tensor]:
        if feed.embeddings is None:
            return {"input_ids": self._ids(feed.tokens)[None]}
        return {"inputs_embeds": feed.embeddings.to(self.device, self.dtype)[None]}

    @torch.no_grad()
    def forward_plainly(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "1 length vocab"]:
        """Return the logits of one plain forward over the inputs that the processor makes."""
        given = {key: value.to(self.device) for key, value in inputs.items()}
        given = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in given.items()}
        return self.model(**given, use_cache=False).logits

    @torch.no_grad()
    def plain_logits(self, texts: list[list[int]]) -> Float[Tensor, "texts length vocab"]:
        """Return the logits of a plain pass over texts of equal length: no cache, mask or
        positions.
        """
        ids = torch.tensor(texts, device=self.device)
        return self.model(input_ids=ids, use_cache=False).logits

    def _ids(self, tokens: Sequence[int] | IntArray) -> Tensor:
        return torch.as_tensor(as_ids(tokens), device=self.device)


@contextmanager
def _inputs_of(head: Any) -> Iterator[list[Tensor]]:
    """Context manager: collect the inputs of `head`; empty if `head` is not a module."""
    read: list[Tensor] = []
    if not isinstance(head, torch.nn.Module):
        yield read
        return
    hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        yield read
    finally:
        hook.remove()


def _head_width(model: PreTrainedModel) -> int:
    """Return the width of the logits."""
    weight = getattr(model.get_output_embeddings(), "weight", None)
    if weight is None:
        return model.config.get_text_config(decoder=True).vocab_size
    return int(weight.shape[0])
