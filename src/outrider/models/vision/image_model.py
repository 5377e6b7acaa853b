"""A model that sees: eyes before the runner of a text stack.

Every tier that sees makes its own view of `Prompt.pictured`: its own placeholders, features and
positions. Tiers without eyes read the question alone, which is `Prompt.token_ids`.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from outrider.core.types import IntArray, Piece, Prompt, Rows
from outrider.models.wrappers.layered import LayeredAround
from outrider.protocols import Cache, ChainRequest, Eyes, LanguageModel, Layered, Segment, Segmented


class Sighted:
    """A `LanguageModel` around `inner`, whose `start` turns pictures into what `inner` reads.

    Caches are those of `inner`; `cache.looked` are the seconds that looking took. Made by
    `sighted`, which keeps what else the model inside can do.

    Args:
        inner: runs the text stack.
        eyes: make views for it.
    """

    def __init__(self, inner: LanguageModel, eyes: Eyes) -> None:
        self.inner: Any = inner
        self.eyes = eyes
        self.name = inner.name
        self.vocab_size, self.context_length = inner.vocab_size, inner.context_length
        self.unspoken = eyes.unspoken
        self.bytes_per_token: int = getattr(inner, "bytes_per_token", 0)
        self.end_ids: tuple[int, ...] = getattr(inner, "end_ids", ())
        self.generation_defaults: dict[str, Any] = getattr(inner, "generation_defaults", {})

    @property
    def fingerprint(self) -> str:
        """That of the model inside."""
        return self.inner.fingerprint

    def __getattr__(self, name: str) -> Any:
        """What else the runner inside has to tell: `dtype`, `device`, `embed`, ..."""
        if name.startswith("_") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[Any]:
        """Look, and read what is seen; one cache a prompt. Prompts without pictures are read as
        they are. Equal prompts (the same object) are looked at once.

        Raises:
            ContextError: a view does not fit into the window.
            OptionError: a question or an image that the model can not take.
        """
        begun = perf_counter()
        once = {id(p): p for p in prompts if p.pictured is not None}
        seen = self.eyes.views([p.pictured for p in once.values() if p.pictured is not None])
        views = dict(zip(once, seen, strict=True))
        looked = perf_counter() - begun
        caches: list[Any] = self.inner.start([views.get(id(p), p) for p in prompts], reuse)
        for prompt, cache in zip(prompts, caches, strict=True):
            cache.looked = looked if id(prompt) in views else 0.0
        return caches

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """As the model inside."""
        return self.inner.forward(segments, want)

    def write(
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """As `protocols.Writer`; None where the model inside can not."""
        write = getattr(self.inner, "write", None)
        if write is None:
            return None
        return write(chains, confidence)


class _Segments:
    """Delegates `protocols.Segmented`."""

    inner: Any

    @property
    def reads_gaps(self) -> bool:
        """Whether positions may have gaps."""
        return self.inner.reads_gaps

    def rearrange(self, caches: Sequence[Any], texts: Sequence[Sequence[Piece]]) -> None:
        """As the model inside."""
        self.inner.rearrange(caches, texts)


class SightedLayered(LayeredAround, Sighted):
    """The same around a model that drafts with its own layers (`protocols.Layered`)."""


class SightedSegmented(_Segments, Sighted):
    """The same around a model whose caches can be taken apart (`protocols.Segmented`)."""


class SightedRunner(LayeredAround, _Segments, Sighted):
    """The same around a model that can do both, as all runners of this package can."""


def sighted(inner: LanguageModel, eyes: Eyes) -> Sighted:
    """`inner`, seeing with `eyes`."""
    layered, segmented = isinstance(inner, Layered), isinstance(inner, Segmented)
    kinds = {
        (False, False): Sighted,
        (True, False): SightedLayered,
        (False, True): SightedSegmented,
        (True, True): SightedRunner,
    }
    return kinds[layered, segmented](inner, eyes)
