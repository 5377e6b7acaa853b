"""Long inputs of random ids, and rankers whose scores are easily told."""

import random
from dataclasses import dataclass

import numpy as np

from outrider.core.types import LongContext, Passage, Prompt


def long_prompt(
    seed: int = 0, *, chunks: int = 6, vocab_size: int = 48, head: int = 2, tail: int = 3
) -> Prompt:
    """`head` ids, chunks of 3 to 6, `tail` ids."""
    draw = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, vocab_size) for _ in range(count))

    parts = [Passage("", ids(draw.randint(3, 6))) for _ in range(chunks)]
    begin, end = ids(head), ids(tail)
    context = LongContext(start=head, chunks=tuple(parts), query=Passage("", end))
    whole = (*begin, *(token for part in parts for token in part.token_ids), *end)
    return Prompt(token_ids=whole, context=context)


@dataclass(frozen=True)
class WanderingIndex:
    chunks: int
    seed: int

    def scores(self, query: Passage, recent: Passage | None, mix: float) -> np.ndarray:
        """Random numbers that depend on every one of the recent tokens."""
        key = [self.seed, *query.token_ids, *(recent.token_ids if recent else ())]
        return np.random.default_rng(key).uniform(-1, 1, self.chunks)


@dataclass(frozen=True)
class Wandering:
    """A ranker that changes its mind with every token that is written."""

    seed: int = 0
    name: str = "wandering"
    encoder_name: str | None = None
    encoder: None = None
    refreshes: bool = True

    def index(self, context: LongContext) -> WanderingIndex:
        return WanderingIndex(len(context.chunks), self.seed)
