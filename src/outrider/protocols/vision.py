"""What makes images readable for a model."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from outrider.core.types import (
    ImagePrompt,
    Prompt,
)


@runtime_checkable
class VisionEncoder(Protocol):
    """What makes images readable for one model."""

    @property
    def image_token_ids(self) -> frozenset[int]:
        """Ids that stand for images. They are read, and never drafted."""
        ...

    def views(self, image_prompt: Sequence[ImagePrompt]) -> list[Prompt]:
        """What this model reads of each: `token_ids` with placeholders, `embeddings` with the
        features of the images, and `axes` where it has them. Images are encoded together.

        Raises:
            OptionError: a question that its template can not spell, or too many images for it.
        """
        ...
