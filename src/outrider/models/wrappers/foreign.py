"""A draft model with a vocabulary of its own, beside the tokenizers that translate its drafts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from outrider.core.types import IntArray, Prompt, Rows
from outrider.models.wrappers.passing import ModelWrapper
from outrider.protocols import Cache, LanguageModel, Segment


@runtime_checkable
class Translator(Protocol):
    """What is needed of a tokenizer to write a text in its tokens (`checkpoints.tokenizer`)."""

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        ...

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text."""
        ...

    @property
    def table(self) -> Sequence[str | None]:
        """The entry of each id in the vocabulary."""
        ...

    @property
    def special_texts(self) -> Mapping[int, str]:
        """The text of each special token."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, with opening tokens."""
        ...

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Return the ids of a part of a text, without opening tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens."""
        ...

    def decode_all(self, ids: Sequence[int]) -> str:
        """Return the text of ids with special tokens."""
        ...


class ForeignModel(ModelWrapper):
    """A model whose token ids mean other texts than those of the target.

    It reads and writes its own ids; `Universal` (`drafters/neural/universal.py`) is the only
    drafter that runs it.

    Args:
        model: the draft model.
        own: its tokenizer.
        target: the target's tokenizer.
        target_size: number of the target's logits: ids from there on are never drafted.
    """

    def __init__(
        self, model: LanguageModel, *, own: Translator, target: Translator, target_size: int
    ) -> None:
        super().__init__(
            model, replace(model.info, name=f"{model.info.name} with its own tokenizer")
        )
        self.own, self.target, self.target_size = own, target, target_size

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> Sequence[Cache]:
        """Read prompts of its own ids. Raises `ContextError`."""
        return self.inner.start(prompts, reuse)

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments, whose tokens are its own ids."""
        return self.inner.forward(segments, want)
