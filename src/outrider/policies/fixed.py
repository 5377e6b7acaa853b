"""The simplest policies: always the same length, always the same size of tree."""

from dataclasses import dataclass

from outrider.core.checks import Range
from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import Budget

_LENGTH = Range(1, hint="Draft at least 1 token, or use mode none")


@dataclass(frozen=True, slots=True)
class FixedLength:
    """Draft a chain of `num_speculative_tokens` every round."""

    num_speculative_tokens: int = 5

    def __post_init__(self) -> None:
        _LENGTH.check("num_speculative_tokens", self.num_speculative_tokens)

    @property
    def adaptive(self) -> bool:
        """It never changes."""
        return False

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """A chain of the fixed length, whatever happened before."""
        return Budget.chain(self.num_speculative_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedTree:
    """Ask for a tree of at most `nodes` tokens, `depth` deep, every round.

    Drafters of chains give a chain of `depth`.
    """

    depth: int = 6
    nodes: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= self.nodes:
            raise OptionError(
                f"a tree of {self.nodes} nodes and depth {self.depth}",
                hint="Give 1 <= depth <= nodes",
            )

    @property
    def adaptive(self) -> bool:
        """It never changes."""
        return False

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """A tree of the fixed size, whatever happened before."""
        return Budget(depth=self.depth, nodes=self.nodes)
