"""Types of inputs as users give them, before they are read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Union, runtime_checkable

from outrider.core.types import Message, Prompt

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from torch import Tensor

GivenPrompt = Union[str, Prompt, Sequence[int], "np.ndarray", "Tensor", Sequence[Message]]
"""A text, a prompt that is already read, token ids, or chat messages."""

GivenImage = Union["PIL.Image.Image", str, Path]
"""An image, or the path of one."""

GivenImages = GivenImage | Sequence[GivenImage] | None
"""The images of one prompt."""

GivenDocument = str | Path | tuple[str, str]
"""A text, a file or folder, or a name and a text."""


GivenDocuments = GivenDocument | Sequence[GivenDocument] | None
"""Documents that precede a prompt, which is then the instruction."""


@runtime_checkable
class TextCodec(Protocol):
    """Tokenizer functions that prompts and results need."""

    @property
    def has_chat(self) -> bool:
        """Whether there is a chat template."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode text; special tokens come first as the model expects."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text without special tokens."""
        ...

    def chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Encode messages with the chat template, ready for the answer."""
        ...


@runtime_checkable
class MarkedCodec(Protocol):
    """A tokenizer with special tokens, which `decode` leaves out."""

    @property
    def special_texts(self) -> Mapping[int, str]:
        """The text of each special token."""
        ...

    def decode_all(self, ids: Sequence[int]) -> str:
        """Decode ids to text with special tokens."""
        ...
