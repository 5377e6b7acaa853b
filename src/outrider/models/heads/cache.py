"""The cache of a head: keys and values of one layer, and the cache of the target that it follows.

Row i of a head reads token i + 1 of the target's text and the target's states at place i. The text
of a head is therefore the target's without its first token. A head may leave out more tokens at
the beginning of a long prompt; then its rows count from the place behind them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.caches.bookkeeping import CacheBook, Feed
from outrider.models.caches.kv_cache import CacheLayout, DecoderCache
from outrider.models.caches.prefill import common_length
from outrider.models.cpu.cache import NativeCache
from outrider.models.heads.hints import HintSource
from outrider.protocols import Cache, Segment


class Following(CacheBook):
    """Bookkeeping of a cache whose rows read the target's states.

    Rows of drafted tokens are made from predicted states. They are dropped when tokens are
    committed, and made again from the true ones.

    Attributes:
        source: the cache of the target.
        hints: the successors of the text; the first `hinted` tokens of the target's text are known.
        skipped: the tokens of the target's text that no row reads: the first one, whose states the
            first row reads, and those that are left out before it.
        outputs: `[1 + speculative, width]` outputs of the last row of the text and of the
            speculative rows.
    """

    source: Cache
    hints: HintSource
    hinted: int
    skipped: tuple[int, ...]
    outputs: Float[Tensor, "rows width"]

    @property
    def longest(self) -> int | None:
        """The largest number of tokens that a head drafts after the text; None: no limit."""
        return None

    def follow(self, source: Cache, hints: HintSource, skipped: Sequence[int] = ()) -> None:
        """Read the states of this cache of the target from now on.

        Args:
            source: the cache of the target.
            hints: successors of its text, of which none is known yet.
            skipped: the beginning of its text that no row reads; at least its first token.
        """
        self.source, self.hints, self.hinted = source, hints, 0
        self.skipped = tuple(skipped) or (int(source.text[0]),)
        self.outputs = torch.empty(0, 0)

    @property
    def offset(self) -> int:
        """The place of the target's states that the first row reads."""
        return len(self.skipped) - 1

    @property
    def readable(self) -> int:
        """How many tokens can follow the text, given the states that the target has."""
        source = self.source
        rows = len(source.text) - len(source.pending)
        return min(rows, len(source.text) - 1) - len(self.text) - self.offset

    @property
    def ready(self) -> bool:
        """Whether the last token of the target's text can be read, so that a draft can begin."""
        whole = len(self.text) == len(self.source.text) - 1 - self.offset
        return len(self.text) > 0 and whole and self.readable == 0

    def speculative_token(self, row: int) -> int:
        """Return the token of a speculative row; -1 is the last token of the text."""
        return int(self._tokens[row]) if row >= 0 else int(self._text[-1])

    def parent(self, row: int) -> int:
        """Return the parent of a speculative row."""
        return self._parents[row]

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append tokens of the target's text; all rows of drafted tokens are dropped."""
        self._tokens, self._parents = [], []
        super().commit(tokens)

    def feed(self, segment: Segment, want: IntArray) -> Feed:
        """Plan a forward over `segment`; new rows of the text leave no outputs behind."""
        if not self._fed:
            self.outputs = self.outputs[:0]
        return super().feed(segment, want)

    def follow_again(
        self, source: Cache, hints: HintSource, text: Sequence[int], most: int | None
    ) -> None:
        """Follow another cache; what this text begins with is kept.

        Args:
            source: the other cache of the target.
            hints: successors of its text, of which none is known yet.
            text: the text that it will read, from the second token on.
            most: the most tokens that are read before the first draft; None for all.
        """
        self.commit(())
        whole = (int(source.text[0]), *text)
        same = whole[: len(self.skipped)] == self.skipped
        rest = whole[len(self.skipped) :]
        kept = min(common_length(self.text, rest), max(self.length, 1)) if same else 0
        anew = not kept or (most is not None and len(rest) - kept > most)
        skipped = skipped_of(whole, most) if anew else self.skipped
        kept = 0 if anew else kept
        if kept < len(self.text):
            self._keep(kept, min(self.length, max(kept - 1, 0)))
        self.follow(source, hints, skipped)


def skipped_of(text: Sequence[int], most: int | None) -> tuple[int, ...]:
    """Return the beginning of the target's text that a fresh head leaves out.

    Args:
        text: the target's text.
        most: the most tokens that the head reads of it; None for all but the first one.
    """
    left = 1 if most is None else max(1, len(text) - most)
    return tuple(text[:left])


class HeadCache(Following, DecoderCache):
    """The cache of `HeadModel`.

    Args:
        layout: of the model, which shows that a cache is its own.
        longest: the largest number of drafted tokens; None: no limit.
    """

    def __init__(self, layout: CacheLayout, *, longest: int | None = None) -> None:
        DecoderCache.__init__(self, layout)
        self._longest = longest

    @property
    def longest(self) -> int | None:
        """The largest number of tokens that a head drafts after the text; None: no limit."""
        return self._longest


class NativeHeadCache(Following, NativeCache):
    """The cache of `NativeHead`."""

    def __init__(self, layout: CacheLayout) -> None:
        NativeCache.__init__(self, layout)
