"""Growing the trees of many requests at once: one reading for all nodes whose outlook is asked."""

from collections.abc import Generator, Sequence
from typing import Protocol, runtime_checkable

from outrider.core.types import Draw
from outrider.drafters.neural.growth.outlook import Outlook
from outrider.drafters.neural.growth.plot import Plot

Growing = Generator[list[int], None, None]
"""Yields the nodes whose outlook it needs next; they are in `Plot.outlooks` when it goes on."""


@runtime_checkable
class Growth(Protocol):
    """A way in which trees grow. It knows nothing of who tells it what may follow a node."""

    @property
    def draw(self) -> Draw:
        """How siblings are picked when their laws are asked for."""
        ...

    @property
    def breadth(self) -> int:
        """Most children that it looks at under one node."""
        ...

    def grow(self, plot: Plot) -> Growing:
        """Grow one tree. The first reading asked for is that of the text, node -1, alone."""
        ...


@runtime_checkable
class NextLaws(Protocol):
    """Whoever can tell what may follow the nodes of growing trees: a model, or a memory."""

    def __call__(self, asked: Sequence[tuple[int, Sequence[int]]]) -> list[list[Outlook | None]]:
        """For each `(number of the plot, its nodes)` one outlook a node, all in one go.

        A node is asked about once, after its parent. None: nothing that could be read.
        """
        ...


def grow_all(growth: Growth, plots: Sequence[Plot], laws: NextLaws) -> None:
    """Grow all `plots` to their ends, one reading for all of them at a time."""
    growing = {i: growth.grow(plot) for i, plot in enumerate(plots) if plot.may_grow(-1)}
    while growing:
        asked = [(i, nodes) for i, nodes in _wanted(growing) if nodes]
        growing = {i: growing[i] for i, _ in asked}
        if not asked:
            return
        for (i, nodes), outlooks in zip(asked, laws(asked), strict=True):
            for node, outlook in zip(nodes, outlooks, strict=True):
                plots[i].take(node, outlook)


def _wanted(growing: dict[int, Growing]) -> list[tuple[int, list[int]]]:
    """What each of them asks for next; nothing from those that have ended."""
    return [(i, next(one, [])) for i, one in growing.items()]
