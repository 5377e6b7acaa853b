"""The simplest policy: always the same length."""

from dataclasses import dataclass

from outrider.errors import OptionError
from outrider.types import Budget, Counters


@dataclass(frozen=True, slots=True)
class FixedLength:
    """Draft a chain of `num_speculative_tokens` every round."""

    num_speculative_tokens: int = 5

    def __post_init__(self) -> None:
        if self.num_speculative_tokens < 1:
            raise OptionError(
                f"num_speculative_tokens is {self.num_speculative_tokens}",
                hint="Draft at least 1 token, or use mode none",
            )

    @property
    def adaptive(self) -> bool:
        """It never changes."""
        return False

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """A chain of the fixed length, whatever happened before."""
        return Budget.chain(self.num_speculative_tokens)
