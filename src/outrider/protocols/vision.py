"""The contract of vision encoders, which convert images to input embeddings of a model."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from outrider.core.types import (
    ImagePrompt,
    Prompt,
)


@runtime_checkable
class VisionEncoder(Protocol):
    """Converts images to input embeddings of one model."""

    @property
    def image_token_ids(self) -> frozenset[int]:
        """Ids that represent images. They are read, but never drafted."""
        ...

    def views(self, image_prompt: Sequence[ImagePrompt]) -> list[Prompt]:
        """Convert each image prompt to the prompt that this model reads: `token_ids` with
        placeholders, `embeddings` with the features of the images, and `axes` if the model uses
        them. Images are encoded together.

        Raises:
            OptionError: the chat template does not support the messages, or there are too many
                images.
        """
        ...
