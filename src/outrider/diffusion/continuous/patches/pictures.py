"""Between images and patches, and images as files."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.errors import MissingExtraError, OptionError, writing

Pixels = NDArray[np.uint8]
_EDGE = 2
"""Pixels between two images of a sheet."""


def to_patches(images: Float[Tensor, "n side side"], patch: int) -> Float[Tensor, "n length size"]:
    """Cut images into patches in raster order."""
    rows = images.unflatten(1, (-1, patch)).unflatten(3, (-1, patch))
    return rows.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)


def from_patches(
    patches: Float[Tensor, "n length size"], side: int
) -> Float[Tensor, "n side side"]:
    """Put patches in raster order together."""
    patch = math.isqrt(patches.shape[-1])
    tiles = patches.unflatten(-1, (patch, patch)).unflatten(1, (side // patch, side // patch))
    return tiles.permute(0, 1, 3, 2, 4).reshape(len(patches), side, side)


def to_pixels(images: Float[Tensor, "n side side"]) -> list[Pixels]:
    """Return grey images of bytes; -1 is black and 1 is white."""
    scaled = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return list(scaled.cpu().numpy())


def sheet(images: Sequence[Pixels]) -> Pixels:
    """Put images of one size into a rectangle that is about square, with a grey edge between.

    Raises:
        OptionError: there are no images.
    """
    if not images:
        raise OptionError("there are no images", hint="Draw at least 1")
    height, width = images[0].shape
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    whole = np.full(
        (rows * (height + _EDGE) - _EDGE, columns * (width + _EDGE) - _EDGE), 128, np.uint8
    )
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = row * (height + _EDGE), column * (width + _EDGE)
        whole[top : top + height, left : left + width] = image
    return whole


def save_picture(pixels: Pixels, path: Path, scale: int = 1) -> None:
    """Write a grey image; the ending of `path` selects the format.

    Args:
        pixels: `[height, width]`.
        path: the file.
        scale: each pixel becomes a square of this width.

    Raises:
        MissingExtraError: pillow is not installed.
        OptionError: the ending is unknown, or the file cannot be written.
    """
    check_ending(path)
    from PIL import Image

    large = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    with writing(path):
        Image.fromarray(large).save(path)


def check_ending(path: Path) -> None:
    """Raise `OptionError` unless images can be written under this name, and `MissingExtraError`
    if pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "vision") from error
    if path.suffix.lower() not in Image.registered_extensions():
        raise OptionError(
            f"{path} has no ending of an image file", hint="Give a name such as picture.png"
        )
