"""A model that reads only the parts of a long input that matter now."""

from collections.abc import Sequence
from typing import Any

from outrider.context.config import ContextConfig
from outrider.context.ranking import Ranker
from outrider.context.selection import Selection
from outrider.protocols import LanguageModel
from outrider.types import Prompt


class Selected:
    """A `LanguageModel` around `inner` that reads a selection of `Prompt.context`.

    Its caches have `reading: Reading | None` (None for prompts without a long input). Made by
    `select`, which keeps the optional abilities (`Writer`, `Layered`) of the model inside.
    """

    def __init__(self, inner: LanguageModel, ranker: Ranker, config: ContextConfig) -> None:
        raise NotImplementedError

    def selection(self, prompt: Prompt) -> Selection:
        """What would be read of `prompt` first, without reading it. Raises `ContextError`."""
        raise NotImplementedError

    def start(self, prompts: Sequence[Prompt], reuse: Any = None) -> list[Any]:
        """Choose, and read what is chosen."""
        raise NotImplementedError


def select(model: LanguageModel, ranker: Ranker, config: ContextConfig) -> Any:
    """`model`, reading only what `ranker` finds to matter."""
    return Selected(model, ranker, config)
