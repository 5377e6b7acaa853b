"""Any pillow image as plain RGB: what every model's own preparation begins with."""

from typing import TYPE_CHECKING

import numpy as np

from outrider.core.errors import OptionError

if TYPE_CHECKING:
    import PIL.Image

LARGEST = 1 << 24
"""Pixels that are kept: 16 megapixels, more than any supported model looks at. What has more is
halved on both sides until it fits."""

_ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Modes of 16 bits a pixel; pillow itself would clip them."""


def as_rgb(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """`image` (`PIL.Image.Image`) in RGB, upright, of at most `LARGEST` pixels.

    What is transparent is laid on white. 16-bit greys are scaled, not clipped. CMYK goes by the
    plain formula, whatever the colour profile.

    Raises:
        OptionError: it has no pixels.
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
    image = image.convert("RGB")  # a copy, if it is
    image = image if turn is None else image.transpose(turn)
    image.info = {}  # what was said of the old one: it would be turned again
    return image


def halvings(size: tuple[int, int]) -> int:
    """By what power of two both sides of `size` are divided to keep to `LARGEST`."""
    factor = 1
    while -(-size[0] // factor) * -(-size[1] // factor) > LARGEST:
        factor *= 2
    return factor


def _eight_bits(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """A 16-bit grey by its high byte, which is also what pillow keeps of 16-bit colours."""
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
    """How to set the image upright; None where it is, or where nobody can tell."""
    from PIL.Image import Transpose

    try:
        said = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF data raise anything, and are no reason to lose the image
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
