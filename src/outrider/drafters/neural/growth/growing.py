"""Grows the trees of many requests together, with one forward for all requested nodes."""

from collections.abc import Generator, Sequence
from typing import Protocol, runtime_checkable

from outrider.core.types import Draw
from outrider.drafters.neural.growth.next_tokens import NextTokens
from outrider.drafters.neural.growth.tree_builder import TreeBuilder

GrowthSteps = Generator[list[int], None, None]
"""Yields the nodes whose next-token candidates are needed; they are in `TreeBuilder.next_tokens`
when the generator resumes."""


@runtime_checkable
class Growth(Protocol):
    """A growth method for trees. It does not depend on the source of the next-token
    distributions."""

    @property
    def draw(self) -> Draw:
        """How siblings are selected if their distributions are needed."""
        ...

    @property
    def breadth(self) -> int:
        """The largest number of candidate children of one node."""
        ...

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree. The first request is always for the text, node -1, alone."""
        ...


@runtime_checkable
class NextProbs(Protocol):
    """A source of next-token candidates for the nodes of growing trees: a model or a memory."""

    def __call__(self, asked: Sequence[tuple[int, Sequence[int]]]) -> list[list[NextTokens | None]]:
        """Return one result per node for each `(number of the builder, its nodes)`, all in one
        call.

        Each node is requested once, after its parent. None: no usable distribution.
        """
        ...


def grow_all(growth: Growth, builders: Sequence[TreeBuilder], distributions: NextProbs) -> None:
    """Grow all `builders` to completion, with one forward for all of them at a time."""
    growing = {
        i: growth.grow(builder) for i, builder in enumerate(builders) if builder.may_grow(-1)
    }
    while growing:
        asked = [(i, nodes) for i, nodes in _wanted(growing) if nodes]
        growing = {i: growing[i] for i, _ in asked}
        if not asked:
            return
        for (i, nodes), next_tokens in zip(asked, distributions(asked), strict=True):
            for node, following in zip(nodes, next_tokens, strict=True):
                builders[i].take(node, following)


def _wanted(growing: dict[int, GrowthSteps]) -> list[tuple[int, list[int]]]:
    """Return the next nodes that each generator requests; generators that have ended are
    omitted.
    """
    return [(i, next(one, [])) for i, one in growing.items()]
