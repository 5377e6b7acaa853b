"""Growing the trees of many requests at once: one reading for all nodes whose outlook is asked."""

from collections.abc import Generator, Sequence
from typing import Protocol, runtime_checkable

from outrider.core.types import Draw
from outrider.drafters.neural.growth.next_tokens import NextTokens
from outrider.drafters.neural.growth.tree_builder import TreeBuilder

GrowthSteps = Generator[list[int], None, None]
"""Yields the nodes whose outlook it needs next; they are in `TreeBuilder.next_tokens` when it goes
on."""


@runtime_checkable
class Growth(Protocol):
    """A way in which trees grow. It knows nothing of who tells it what may follow a node."""

    @property
    def draw(self) -> Draw:
        """How siblings are picked when their distributions are asked for."""
        ...

    @property
    def breadth(self) -> int:
        """Most children that it looks at under one node."""
        ...

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree. The first reading asked for is that of the text, node -1, alone."""
        ...


@runtime_checkable
class NextProbs(Protocol):
    """Whoever can tell what may follow the nodes of growing trees: a model, or a memory."""

    def __call__(self, asked: Sequence[tuple[int, Sequence[int]]]) -> list[list[NextTokens | None]]:
        """For each `(number of the builder, its nodes)` one outlook a node, all in one go.

        A node is asked about once, after its parent. None: nothing that could be read.
        """
        ...


def grow_all(growth: Growth, builders: Sequence[TreeBuilder], distributions: NextProbs) -> None:
    """Grow all `builders` to their ends, one reading for all of them at a time."""
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
    """What each of them asks for next; nothing from those that have ended."""
    return [(i, next(one, [])) for i, one in growing.items()]
