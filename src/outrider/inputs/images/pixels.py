"""Converts any pillow image to plain RGB, the common input of all image processors."""

from typing import TYPE_CHECKING

import numpy as np

from outrider.core.errors import OptionError

if TYPE_CHECKING:
    import PIL.Image

LARGEST = 1 << 24
"""Largest number of pixels kept: 16 megapixels, more than any supported model reads. Both sides of
a larger image are halved until it fits.
"""

_ORIENTATION = 0x0112
"""The EXIF tag of the camera's orientation."""

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Modes with 16 bits a pixel; pillow would clip their values."""


def as_rgb(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """Convert `image` (`PIL.Image.Image`) to upright RGB with at most `LARGEST` pixels.

    Transparent parts become white. 16-bit grays are scaled, not clipped. CMYK is converted with the
    plain formula, without a color profile.

    Raises:
        OptionError: the image has no pixels.
    """
    if not image.width or not image.height:
        raise OptionError(
            f"the image is {image.width} x {image.height} pixels", hint="Leave it out"
        )
    turn = _turn(image)
    if image.mode in _DEEP:
        image = _eight_bits(image)
    elif image.mode not in ("RGB", "RGBA", "L", "LA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if (halves := halvings(image.size)) > 1:
        image = image.reduce(halves)
    if image.has_transparency_data:
        image = _on_white(image.convert("RGBA"))
    image = image.convert("RGB")  # a copy if it is already RGB
    image = image if turn is None else image.transpose(turn)
    image.info = {}  # metadata of the original would rotate the image again
    return image


def halvings(size: tuple[int, int]) -> int:
    """Return how often both sides of `size` must be halved to keep to `LARGEST`."""
    factor = 1
    while -(-size[0] // factor) * -(-size[1] // factor) > LARGEST:
        factor *= 2
    return factor


def _eight_bits(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """Convert a 16-bit gray to its high byte; pillow does the same with 16-bit colors."""
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "I":
        values = values.clip(0, 0xFFFF)
    return Image.fromarray((values >> 8).astype(np.uint8))


def _on_white(image: "PIL.Image.Image") -> "PIL.Image.Image":
    from PIL import Image

    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def _turn(image: "PIL.Image.Image") -> "PIL.Image.Transpose | None":
    """Return the rotation that sets the image upright; None if it is upright or unknown."""
    from PIL.Image import Transpose

    try:
        said = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF data raise various exceptions; the image is still usable
        return None
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(said) if isinstance(said, int) else None
