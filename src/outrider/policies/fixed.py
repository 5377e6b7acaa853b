"""The simplest policy: a fixed draft length."""

from dataclasses import dataclass

from outrider.core.checks import Range
from outrider.core.counters import Counters
from outrider.core.types import Budget
from outrider.protocols.method import Method

_LENGTH = Range(1, hint="Draft at least 1 token, or use mode none")


@dataclass(frozen=True, slots=True)
class FixedLength:
    """Requests a chain of `num_speculative_tokens` tokens in every round."""

    num_speculative_tokens: int = 5

    def __post_init__(self) -> None:
        _LENGTH.check("num_speculative_tokens", self.num_speculative_tokens)

    @property
    def adaptive(self) -> bool:
        """False: the budget is the same in every round."""
        return False

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """Return a chain of the fixed length, independent of the counters."""
        return Budget.chain(self.num_speculative_tokens)


METHOD = Method(
    name="fixed",
    cls=FixedLength,
    summary="a chain of a fixed length every round",
)
