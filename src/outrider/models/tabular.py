"""Models over a tiny vocabulary, for which the distribution over whole sequences can be computed.

The test suite uses them as ground truth: the probability of every continuation is a product of
table entries, and they pass through the same round as any model.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray, Piece, Prompt, Rows
from outrider.models.caches.bookkeeping import CacheBook, Run
from outrider.models.caches.borrowed import Borrowed
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.prefill import start_caches
from outrider.models.caches.rearranging import rearrange
from outrider.protocols import Cache, ModelInfo, Segment, Segmented
from outrider.sampling import Sampler


class TabularCache(CacheBook):
    """A cache without tensors: a table needs only the bookkeeping."""

    def _move(self, slots: list[int], start: int) -> None: ...

    def _lay_out(self, kept: Sequence[Run], slots: int) -> None: ...

    def _share(self) -> "TabularCache":
        return type(self)(self.context_length)

    def ending_at(self, row: int, order: int) -> list[int]:
        """Return the last `order` tokens up to speculative row `row` (-1: the end of the text)."""
        tokens: list[int] = []
        while row >= 0 and len(tokens) < order:
            tokens.append(self._tokens[row])
            row = self._parents[row]
        missing = order - len(tokens)
        return (self._text[-missing:] if missing else []) + tokens[::-1]


class BorrowedTabularCache(Borrowed, TabularCache):
    """A cache borrowed from a `TabularCache`."""


class TabularModel:
    """The next token depends on the last `order` tokens, through a table of logits.

    `table` is `[vocab, ..., vocab]` with `order + 1` axes. Texts shorter than `order` are padded
    with token 0 on the left.
    """

    layered = chain_decoder = hidden_states = selector = embed = None

    def __init__(
        self, table: Tensor, *, name: str = "tabular", context_length: int = 1 << 20
    ) -> None:
        self.table = table
        self.order = table.dim() - 1
        self.info = ModelInfo(
            name=name,
            vocab_size=table.shape[-1],
            context_length=context_length,
            find_fingerprint=lambda: hashlib.sha256(table.numpy().tobytes()).hexdigest()[:16],
            batch_invariant=True,
            dtype=table.dtype,
        )

    @classmethod
    def random(
        cls,
        *,
        vocab_size: int = 5,
        order: int = 2,
        seed: int = 0,
        scale: float = 1.5,
        near: "TabularModel | None" = None,
        distance: float = 1.0,
        name: str = "tabular",
    ) -> "TabularModel":
        """Build a table of normal logits of the given scale.

        With `near`, the table is that of `near` plus noise of scale `distance`.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = [vocab_size] * (order + 1)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        if near is not None:
            return cls(near.table + distance * noise, name=name)
        return cls(scale * noise, name=name)

    @property
    def segmented(self) -> Segmented:
        """The model itself: it can rearrange its caches."""
        return self

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[TabularCache]:
        """Create one cache for each prompt."""
        old = [c if isinstance(c, TabularCache) else None for c in reuse] if reuse else None
        return start_caches(self, prompts, old, lambda: TabularCache(self.info.context_length))

    @property
    def reads_gaps(self) -> bool:
        """True: a table does not use positions."""
        return True

    def rearrange(self, caches: Sequence[Cache], texts: Sequence[Sequence[Piece]]) -> None:
        """Rearrange each cache so that its text equals its pieces; see `protocols.Segmented`."""
        rearrange(self, caches, texts)

    def borrow(self, cache: Cache) -> "BorrowedTabularCache":
        """Create a cache over the text of `cache`, with separate bookkeeping."""
        return BorrowedTabularCache(narrowed(cache, TabularCache, self.info.name))

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Look up the requested rows in the table."""
        out: list[Rows] = []
        for segment, rows in zip(segments, want, strict=True):
            cache = narrowed(segment.cache, TabularCache, self.info.name)
            cache.feed(segment, rows)
            contexts = [cache.ending_at(int(row), self.order) for row in rows]
            logits = [self.logits_after(context) for context in contexts]
            empty = torch.empty(0, self.info.vocab_size, dtype=self.table.dtype)
            out.append(Rows(torch.stack(logits) if logits else empty))
        return out

    def logits_after(self, text: Sequence[int]) -> Float[Tensor, " vocab"]:
        """Return the logits of the token after `text`."""
        context = ([0] * self.order + list(text))[len(text) :]
        return self.table[tuple(context)]

    def sequence_probs(
        self, prompt: Sequence[int], length: int, sampler: Sampler
    ) -> Float[Tensor, "..."]:
        """Compute the probability of each continuation: `length` axes of size vocab, summing to
        one.

        After an end token only token 0 follows, so that every continuation has full length.
        """
        probs = torch.ones((), dtype=torch.float64)
        prefixes: list[list[int]] = [[]]
        for _ in range(length):
            rows = [self._step_probs(prompt, prefix, sampler) for prefix in prefixes]
            probs = probs.reshape(-1, 1) * torch.stack(rows)
            prefixes = [[*prefix, t] for prefix in prefixes for t in range(self.info.vocab_size)]
        return probs.reshape([self.info.vocab_size] * length)

    def _step_probs(self, prompt: Sequence[int], prefix: list[int], sampler: Sampler) -> Tensor:
        if any(token in sampler.end_ids for token in prefix):
            row = torch.zeros(self.info.vocab_size, dtype=torch.float64)
            row[0] = 1.0
            return row
        return sampler.probs(self.logits_after([*prompt, *prefix]), prefix)
