"""Models that read parts of a long input."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from outrider.core.types import (
    Prompt,
)
from outrider.protocols.model import LanguageModel


@runtime_checkable
class ContextSelector(Protocol):
    """A `LanguageModel` that reads only parts of a prompt's long input (`Prompt.context`), and
    other parts while the answer is being written.

    On the target it changes the target; on a drafter it can only cost acceptance.
    """

    @property
    def inner(self) -> LanguageModel:
        """The model that reads what is selected."""
        ...

    def reads(self, prompt: Prompt) -> int:
        """Places of its window that `prompt` takes, at most. Raises `ContextError` when not even
        the instruction fits."""
        ...

    def refresh(self, caches: Sequence[Any]) -> None:
        """Choose again for caches whose `horizon` is 0; the others are left as they are."""
        ...
