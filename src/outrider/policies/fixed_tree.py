"""A fixed tree size for every round."""

from dataclasses import dataclass

from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import Budget
from outrider.protocols.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedTree:
    """Requests a tree of at most `nodes` tokens and depth `depth` in every round.

    Drafters of chains return a chain of length `depth`.
    """

    depth: int = 6
    nodes: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= self.nodes:
            raise OptionError(
                f"nodes is {self.nodes} and depth {self.depth}",
                hint="Give 1 <= depth <= nodes",
            )

    @property
    def adaptive(self) -> bool:
        """False: the budget is the same in every round."""
        return False

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """Return a tree of the fixed size, independent of the counters."""
        return Budget(depth=self.depth, nodes=self.nodes)


METHOD = Method(
    name="fixed-tree",
    cls=FixedTree,
    summary="a tree of a fixed size every round",
)
