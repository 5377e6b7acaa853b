"""Images in requests: data URLs. Those at hosts that may be asked were replaced by such before."""

import base64
import binascii
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from outrider.core.errors import OptionError
from outrider.inputs.images.files import read_image_data
from outrider.server.errors import invalid

if TYPE_CHECKING:
    import PIL.Image

_HINT = "Give data:image/png;base64,... (PNG, JPEG, WebP or GIF)"


def read_image_url(url: str, param: str) -> "PIL.Image.Image":
    """Return the image of a data URL.

    Args:
        url: the URL.
        param: the field that holds it.

    Raises:
        ApiError: another URL, or data that is no image; sizes are checked before decoding.
    """
    head, comma, data = url.partition(",")
    if not comma or not head.lower().startswith("data:"):
        raise invalid(f"the image is at {url!r:.60}, which is not fetched. {_HINT}", param)
    try:
        raw = _base64(data) if head.lower().endswith(";base64") else unquote_to_bytes(data)
    except (ValueError, binascii.Error):
        raise invalid(f"the data of the image is not base64. {_HINT}", param) from None
    try:
        return read_image_data(raw, "the image")
    except OptionError as error:
        raise invalid(str(error), param) from None


def _base64(data: str) -> bytes:
    text = unquote_to_bytes(data) if "%" in data else data.encode("ascii")
    return base64.b64decode(text, validate=True)
