"""Any causal language model that `transformers` runs: one sequence at a time, correct before fast.

Of an image-text model it runs the text stack; `models/vision/encoder.py` makes what that reads of
images. Which tokens see which is said with explicit positions and 4D masks. Models that do not
honour both, or whose state can not be rolled back, are refused when they are loaded, by name.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from outrider.core.layers import LayerSet
from outrider.core.types import IntArray, Piece, Prompt, Rows, as_ids
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.borrowed import Borrowed, not_lent
from outrider.models.caches.masks import AttentionLayout
from outrider.models.caches.prefill import start_caches
from outrider.models.caches.rearranging import rearrange
from outrider.models.checkpoints.defaults import context_limit, end_ids, recommended
from outrider.models.transformers.cache import BorrowedTransformersCache, TransformersCache
from outrider.models.transformers.layers import LayerModules, find_layers
from outrider.models.transformers.pretrained import (
    load_pretrained,
    refuse_unfit,
    sampled_fingerprint,
)
from outrider.models.transformers.tree_check import WINDOW, check_trees
from outrider.protocols import Cache, Segment


class TransformersModel:
    """A `LanguageModel` around a causal model of `transformers`.

    Args:
        model: the model; it is put into evaluation mode.
        name: how errors and reports call it; None takes its class's name.
        fingerprint: what calibrations are saved under; None samples the weights.

    Raises:
        CheckpointError: it is an encoder-decoder, keeps a recurrent state, uses an attention
            kernel without masks, or reads a tiny draft tree wrongly (`tree_check.py`).
    """

    def __init__(
        self, model: PreTrainedModel, *, name: str | None = None, fingerprint: str | None = None
    ) -> None:
        name = name or type(model).__name__
        refuse_unfit(model.config, name, type(model))
        self.model = model.eval()
        self.name = name
        self.layout = AttentionLayout.of(model.config, name)
        self.vocab_size = _head_width(model)
        self.context_length = context_limit(self._text)
        self._fingerprint = fingerprint
        self._kept: LayerSet | None = None
        parameters = inspect.signature(model.forward).parameters
        self._keeps_rows = "logits_to_keep" in parameters
        with self.layout.narrowed(WINDOW):
            check_trees(self)

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
            CheckpointError: it can not be read, or not be run (see the class).
        """
        name = name or Path(source).expanduser().resolve().name
        model, fingerprint = load_pretrained(
            source, name=name, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        return cls(model, name=name, fingerprint=fingerprint)

    # -- what it is -------------------------------------------------------------------------

    @property
    def _text(self) -> Any:
        return self.model.config.get_text_config(decoder=True)

    @property
    def hidden_size(self) -> int:
        """Width of the rows that `embed` gives."""
        return int(self._embedding.shape[-1])

    @property
    def _embedding(self) -> Tensor:
        return self.model.get_input_embeddings().weight  # pyright: ignore[reportReturnType]

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, keys and values."""
        return self._embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where ids are read."""
        return self._embedding.device

    @cached_property
    def num_parameters(self) -> int:
        """Numbers in all weights, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values that one token takes in the cache, measured."""
        [cache] = self.start([Prompt(token_ids=(0, 0))])
        return cache.nbytes

    @property
    def fingerprint(self) -> str:
        """The checkpoint's, or for a built model a hash of its configuration and weights."""
        self._fingerprint = self._fingerprint or sampled_fingerprint(self.model)
        return self._fingerprint

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens after which nothing follows."""
        return end_ids(self.generation_defaults, self._text.to_dict())

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """What its generation configuration recommends (`temperature`, ...), as found."""
        found = getattr(self.model, "generation_config", None)
        return {} if found is None else recommended(found.to_diff_dict())

    # -- what it does -----------------------------------------------------------------------

    @torch.no_grad()
    def embed(self, tokens: Sequence[int] | IntArray) -> Float[Tensor, "tokens hidden"]:
        """What it reads for `tokens`, to be mixed into `Prompt.embeddings`."""
        return self.model.get_input_embeddings()(self._ids(tokens)[None])[0]

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[TransformersCache]:
        """One cache a prompt. Raises `ContextError`."""
        old = None if reuse is None else [self._own(cache) for cache in reuse]
        return start_caches(
            self, prompts, old, lambda: TransformersCache(self.context_length, self)
        )

    @property
    def reads_gaps(self) -> bool:
        """True: positions are given with each row."""
        return True

    @property
    def reads_axes(self) -> bool:
        """Whether a row may stand at three places at once (mRoPE)."""
        rope = getattr(self._text, "rope_parameters", None) or {}
        return "mrope_section" in rope

    def rearrange(
        self, caches: Sequence[TransformersCache], texts: Sequence[Sequence[Piece]]
    ) -> None:
        """Make the text of each cache what its pieces spell; see `protocols.Segmented`.

        Raises:
            ContextError: a text does not fit into the window.
            ValueError: kept tokens are not in order, or would have to turn to another position.
        """
        rearrange(self, caches, texts)

    # -- a part of its layers ---------------------------------------------------------------

    @cached_property
    def _modules(self) -> LayerModules:
        ids = self._ids(range(1, min(5, self.vocab_size)))[None]
        return find_layers(self.model, self.name, lambda: self.model(ids, use_cache=False).logits)

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return int(self._text.num_hidden_layers)

    def subset(self, layers: LayerSet) -> "TransformersModel":
        """The model made of `layers` alone: the others add nothing while it runs.

        Raises:
            StrategyError: an architecture that can not be taken apart like that.
        """
        layers.check(self.num_layers, self.name)
        assert self._modules  # found before the copy is made, for all copies
        part = copy(self)
        part.name, part._kept = f"{self.name} ({layers})", layers
        return part

    def borrow(self, cache: Cache) -> BorrowedTransformersCache:
        """A cache over the committed rows of `cache`. Raises `StrategyError` if it is another
        model's."""
        own = self._own(cache)
        if own is None or isinstance(own, Borrowed):
            raise not_lent(self.name)
        return BorrowedTransformersCache(own)

    def watch(self, cache: Cache, on: bool) -> None:
        """Whether forwards over `cache` return `Rows.streams` from now on. Raises `StrategyError`
        as `subset` does."""
        own = self._own(cache)
        if own is not None and self._modules:
            own.watched = on

    @torch.no_grad()
    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """The final norm and the head over residual streams."""
        return self._modules.read_out(states)

    # -- one forward ------------------------------------------------------------------------

    def _own(self, cache: Cache | None) -> TransformersCache | None:
        """`cache` if this very model filled it."""
        if isinstance(cache, TransformersCache) and cache.owner is self:
            return cache
        return None

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments one after the other; `hidden` is what the head reads.

        Raises:
            ContextError: a token would stand beyond the context window.
        """
        pairs = zip(segments, want, strict=True)
        return [self._read(s.cache, s.cache.feed(s, rows)) for s, rows in pairs]

    @torch.no_grad()
    def _read(self, cache: TransformersCache, feed: Feed) -> Rows:
        """Append the feed's rows to the cache; return the rows it takes."""
        if not len(feed.tokens):
            return Rows(torch.empty(0, self.vocab_size, dtype=self.dtype, device=self.device))
        cache.cut(feed.start)
        take = self._ids(feed.take)
        slots = cache.slot_positions(feed.end)
        with ExitStack() as stack:
            read = stack.enter_context(_inputs_of(self.model.get_output_embeddings()))
            if self._kept is not None:
                stack.enter_context(self._modules.only(self._kept))
            heard = stack.enter_context(self._modules.heard()) if cache.watched else []
            logits = self.model(
                **self._inputs(feed),
                position_ids=self._places(feed),
                attention_mask=self.layout.masks(feed, slots, self.dtype, self.device),
                past_key_values=cache.storage,
                use_cache=True,
                **({"logits_to_keep": take} if self._keeps_rows else {}),
            ).logits
        rows = slice(None) if self._keeps_rows else take.to(logits.device)
        hidden = read[0][0, rows] if read else None
        if len(heard) < 2:
            return Rows(logits[0, rows], hidden)
        streams = torch.stack([state[0, take.to(state.device)] for state in heard[:-1]])
        return Rows(logits[0, rows], hidden, streams=streams)

    def _places(self, feed: Feed) -> Tensor:
        """`[1, n]`, or `[3, 1, n]` where rows stand at several places."""
        if feed.axes is None:
            return self._ids(feed.positions)[None]
        return self._ids(feed.axes)[:, None]

    def _inputs(self, feed: Feed) -> dict[str, Tensor]:
        if feed.embeddings is None:
            return {"input_ids": self._ids(feed.tokens)[None]}
        return {"inputs_embeds": feed.embeddings.to(self.device, self.dtype)[None]}

    @torch.no_grad()
    def forward_plainly(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "1 length vocab"]:
        """Logits of one pass of the model's own forward over what its processor makes."""
        given = {key: value.to(self.device) for key, value in inputs.items()}
        given = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in given.items()}
        return self.model(**given, use_cache=False).logits

    @torch.no_grad()
    def plain_logits(self, texts: list[list[int]]) -> Float[Tensor, "texts length vocab"]:
        """Logits of one pass over equally long texts with no cache, mask or positions given."""
        ids = torch.tensor(texts, device=self.device)
        return self.model(input_ids=ids, use_cache=False).logits

    def _ids(self, tokens: Sequence[int] | IntArray) -> Tensor:
        return torch.as_tensor(as_ids(tokens), device=self.device)


@contextmanager
def _inputs_of(head: Any) -> Iterator[list[Tensor]]:
    """What `head` reads inside the block; stays empty where there is no such module."""
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
    """Width of the logits."""
    weight = getattr(model.get_output_embeddings(), "weight", None)
    if weight is None:
        return model.config.get_text_config(decoder=True).vocab_size
    return int(weight.shape[0])
