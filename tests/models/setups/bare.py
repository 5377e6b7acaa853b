"""A model that can do nothing besides what every model can."""

from collections.abc import Sequence

from outrider.core.types import IntArray, Prompt, Rows
from outrider.protocols import Cache, LanguageModel, Segment


class Bare:
    """`inner` without its capabilities."""

    layered = segmented = chain_decoder = hidden_states = selector = embed = None

    def __init__(self, inner: LanguageModel) -> None:
        self.inner, self.info = inner, inner.info

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> Sequence[Cache]:
        return self.inner.start(prompts, reuse)

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        return self.inner.forward(segments, want)
