"""Prompts with images: assigns images to their places, and encodes the question alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from outrider.core.errors import OptionError
from outrider.core.types import ImagePrompt, Message, Prompt
from outrider.inputs.given import GivenImage, GivenImages, GivenPrompt, TextCodec
from outrider.inputs.images.files import read_image
from outrider.inputs.images.pixels import as_rgb
from outrider.models.checkpoints.messages import (
    check_parts,
    images_in,
    is_image,
    spoken_text,
    without_images,
)
from outrider.protocols import LanguageModel

if TYPE_CHECKING:
    import PIL.Image

_ASK = "Give a string with images=[...], or chat messages with image parts"


def needs_vision(prompt: GivenPrompt, images: GivenImages) -> bool:
    """Whether a prompt has images or places for them.

    Raises `OptionError` for parts of messages that are neither images nor texts.
    """
    if not is_chat(prompt):
        return images is not None
    check_parts(prompt)
    return images is not None or any(True for _ in images_in(prompt))


def images_of(
    prompts: Sequence[GivenPrompt], images: Sequence[GivenImages] | None
) -> Sequence[GivenImages]:
    """Assign images to the prompts of a list. Raises `OptionError` if numbers differ."""
    if images is None:
        return [None] * len(prompts)
    if not isinstance(images, list | tuple) or len(images) != len(prompts):
        what = f"{len(images)} lists" if isinstance(images, list | tuple) else f"{images!r:.60}"
        raise OptionError(
            f"{len(prompts)} prompts are given, but {what} of images",
            hint="Give a list of images, or None, for each prompt",
        )
    return images


def read_image_prompt(
    prompt: GivenPrompt, images: GivenImages, tokenizer: TextCodec | None
) -> Prompt:
    """Read one prompt with images.

    Args:
        prompt: a string, which becomes one user message after all images, or chat messages whose
            parts `{"type": "image"}` mark the places of images. A part may hold its image under
            `image`, as in `transformers`.
        images: one for each image part without an image: a `PIL.Image.Image` or a path, alone or in
            a list.
        tokenizer: the target's tokenizer; it encodes the question without images.

    Raises:
        OptionError: a prompt of another form, an image that cannot be read, or numbers that do
            not match.
    """
    if tokenizer is None:
        raise OptionError(
            "the prompt has images, but the target has no tokenizer",
            hint="Load the target from a folder with a tokenizer",
        )
    given = _listed(images)
    if isinstance(prompt, str):
        parts = [{"type": "image"} for _ in given] + [{"type": "text", "text": prompt}]
        prompt = [{"role": "user", "content": parts}]
    if not is_chat(prompt):
        raise OptionError(f"images are given with the prompt {prompt!r:.60}", hint=_ASK)
    messages, found = _placed(prompt, given)
    image_prompt = ImagePrompt(messages=tuple(messages), images=tuple(map(_opened, found)))
    return Prompt(token_ids=_question(messages, tokenizer), image_prompt=image_prompt)


def check_reads_images(model: LanguageModel, prompts: Sequence[Prompt]) -> None:
    """Raise `OptionError` if a prompt has images and the model has no vision encoder."""
    with_images = any(prompt.image_prompt is not None for prompt in prompts)
    if with_images and not model.info.image_token_ids:
        raise OptionError(
            f"images are given, but model {model.info.name} does not read images",
            hint="Load an image-text model with its processor, such as SmolVLM or Qwen2-VL",
        )


def is_chat(prompt: GivenPrompt) -> TypeGuard[Sequence[Message]]:
    """Whether a prompt is a list of chat messages."""
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return False
    return bool(prompt) and all(isinstance(part, Mapping) for part in prompt)


def _listed(images: GivenImages) -> list[GivenImage]:
    if images is None:
        return []
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return list(images)
    return [images]


def _placed(
    messages: Sequence[Message], images: Sequence[GivenImage]
) -> tuple[list[Message], list[GivenImage]]:
    """Return the messages with empty image parts, and the image of each part in order."""
    parts = list(images_in(messages))
    empty = sum(part.get("image") is None for part in parts)
    if empty != len(images):
        raise OptionError(
            f"{len(images)} images are given, but the messages have {empty} image parts without "
            "an image",
            hint='Give one image for each part {"type": "image"}',
        )
    waiting = iter(images)
    found = [next(waiting) if part.get("image") is None else part["image"] for part in parts]
    return [_bare(message) for message in messages], found


def _bare(message: Message) -> Message:
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = [{"type": "image"} if is_image(part) else part for part in content]
    return {**message, "content": content}


def _opened(image: GivenImage) -> "PIL.Image.Image":
    """Open an image in RGB and upright. Raises `OptionError` for other values and files."""
    if isinstance(image, str | Path):
        return read_image(image)
    if not callable(getattr(image, "convert", None)):
        raise OptionError(f"an image is {image!r:.60}", hint="Give a PIL.Image.Image, or a path")
    return as_rgb(image)


def _question(messages: Sequence[Message], tokenizer: TextCodec) -> tuple[int, ...]:
    """Encode the messages without images, with the target's chat template."""
    texts = without_images(messages)
    ids = tokenizer.chat(texts) if tokenizer.has_chat else tokenizer.encode(spoken_text(texts))
    if not len(ids):
        raise OptionError(
            "there is no question about the images", hint="Give a question, or a task"
        )
    return tuple(ids)
