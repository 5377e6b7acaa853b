"""Finds and reads image files: each gives one RGB image or one clear error.

File metadata is not trusted: the first bytes determine the type, only decoders of the types listed
here run, and pixels are counted before they are decoded.
"""

import glob
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from outrider.core.errors import MissingExtraError, OptionError
from outrider.inputs.documents.folders import files_below, is_hidden
from outrider.inputs.images.pixels import as_rgb, halvings
from outrider.inputs.regular import open_regular

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif")
"""File types that are read from a folder. A named file is read whatever its type."""

READ = "JPEG, PNG, WebP and GIF (its first frame) are read"

MAX_PIXELS = 40_000_000
"""Largest number of pixels decoded at once. Only plain JPEG files may have more: they are decoded
row by row at a half, a quarter or an eighth of their size.
"""

MAX_BYTES = 256 << 20
"""Largest size of an image file. Some decoders read the whole file first."""

_JPEG_REDUCES = 8

_LIMIT = f"at most {MAX_PIXELS // 10**6} million are decoded"
_SMALLER = "Make it smaller, or save it as a plain JPEG, which is decoded at reduced size"
_HINT = "Download or save it again, or leave it out"

_STRANGE = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"<svg": "SVG",
}


def read_image(path: str | Path) -> "PIL.Image.Image":
    """Read a file as a `PIL.Image.Image` in RGB.

    The image is upright (EXIF), transparent parts are white, and it has at most 16 megapixels
    (`pixels.LARGEST`). Of an animation, the first frame is read. Whatever size an image claims,
    reading it takes at most 12 bytes for each of `MAX_PIXELS`: half a gigabyte.

    Raises:
        OptionError: the file is missing, cannot be read, is not an image of a known type, is
            damaged or truncated, or has too many pixels. One line that names the file.
        MissingExtraError: pillow is not installed.
    """
    need_pillow()
    path = Path(path)
    try:
        with _opened(path) as file:
            kind = _kind(path, file)
            return _decoded(path, file, kind)
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror or error}") from None


def read_image_data(data: bytes, name: str) -> "PIL.Image.Image":
    """Read the bytes of an image file as `read_image` does; `name` stands in errors.

    Raises:
        OptionError: it is not an image of a known type, is damaged, or has too many pixels.
        MissingExtraError: pillow is not installed.
    """
    need_pillow()
    file, path = BytesIO(data), Path(name)
    return _decoded(path, file, _kind(path, file))


def find_images(places: Sequence[str | Path]) -> list[Path]:
    """Find the image files at `places`: files, folders, and patterns such as `photos/*.jpg`.

    The order of places is kept; files of a folder or a pattern are sorted by name. Folders are
    searched at any depth for files that end in `SUFFIXES`; hidden files and folders are skipped.
    Each file is listed once. A named file is listed even if it is missing, so that `read_image`
    reports it and the others are not lost; if no other file exists, this function raises.

    Raises:
        OptionError: no file is found at all, or none at a folder or pattern; a folder cannot be
            read.
    """
    found: dict[Path, Path] = {}
    for place in places:
        for file in _files_at(place):
            found.setdefault(Path(os.path.realpath(file)), file)
    if not any(map(os.path.lexists, found)):
        names = ", ".join(map(str, places)) or "an empty list"
        raise OptionError(f"there is no image at {names:.200}", hint=f"{READ}, and folders of them")
    return list(found.values())


def _files_at(place: str | Path) -> Iterator[Path]:
    name = os.path.expanduser(place)
    if not name:  # as a path, it would be the current folder
        raise OptionError("the name of an image is empty", hint="Give a file or a folder")
    path = Path(name)
    if os.path.isdir(name):
        inside = [file for file in files_below(path) if _is_image(file, path)]
        hint = f"Files end in {', '.join(SUFFIXES)}; hidden files are skipped"
    elif glob.has_magic(name) and not os.path.lexists(name):
        matches = sorted(glob.glob(name, recursive=True))
        inside = [Path(match) for match in matches if not os.path.isdir(match)]
        hint = "Quote the pattern, or let the shell expand it; ** matches any folder"
    else:
        inside, hint = [path], ""
    if not inside:
        raise OptionError(f"{place} holds no images", hint=hint)
    yield from inside


def _is_image(file: Path, folder: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not is_hidden(file, folder)


def _opened(path: Path) -> BinaryIO:
    """Open a regular file; pipes and devices are refused because they may never end."""
    if path.is_dir():
        raise OptionError(f"{path} is a folder", hint="Give an image, or call find_images")
    if not os.path.lexists(path):
        raise OptionError(f"there is no file {path}", hint="Check the spelling of its name")
    if path.exists() and not path.is_file():
        raise OptionError(f"{path} is not a file", hint=READ)
    file = open_regular(path)
    if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
        file.close()
        raise OptionError(
            f"{path} has {size} bytes; {MAX_BYTES} are read at most", hint="Save it again, smaller"
        )
    return file


def _kind(path: Path, file: BinaryIO) -> str:
    """Determine the decoder for the file from its first bytes."""
    head = file.read(64)
    file.seek(0)
    if not head:
        raise OptionError(f"{path} is empty (0 bytes)", hint="Download it again, or leave it out")
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    raise OptionError(f"{path} is {_told(head)}", hint=f"{READ}; convert it, or leave it out")


def _told(head: bytes) -> str:
    """Describe the type of a file that is not supported."""
    for start, name in _STRANGE.items():
        if head.startswith(start):
            return f"a {name} file"
    if head[4:8] == b"ftyp":
        return f"a {head[8:12].decode('ascii', 'replace').strip().upper()} file (HEIC, AVIF, video)"
    try:
        head[:-4].decode()
    except UnicodeDecodeError:
        return "not an image of a known type"
    return "text, not an image" if b"\0" not in head else "not an image of a known type"


def _decoded(path: Path, file: BinaryIO, kind: str) -> "PIL.Image.Image":
    try:
        image = _decoder(kind)(file)
        width, height = image.size
    except Exception as error:  # decoders raise various exceptions on damaged headers
        if "decompression bomb" in str(error):
            raise OptionError(f"{path} has far too many pixels; {_LIMIT}", hint=_SMALLER) from None
        raise OptionError(
            f"{path} is damaged: its {kind} header cannot be read, or a side has no pixels",
            hint=_HINT,
        ) from None
    if kind == "JPEG" and (halves := halvings(image.size)) > 1:
        if width * height <= MAX_PIXELS or _is_one_scan(file):
            halves = min(halves, _JPEG_REDUCES)
            image.draft(None, (max(width // halves, 1), max(height // halves, 1)))
        file.seek(0)
    if image.width * image.height > MAX_PIXELS:
        raise OptionError(
            f"{path} has too many pixels ({width} x {height}); {_LIMIT}", hint=_SMALLER
        )
    try:
        image.load()
        return as_rgb(image)
    except MemoryError:
        raise OptionError(f"{path} does not fit into memory: {width} x {height} pixels") from None
    except Exception:
        raise OptionError(f"{path} is damaged or cut off ({kind})", hint=_HINT) from None


def _decoder(kind: str) -> Callable[[BinaryIO], Any]:
    """Return the decoder of one type.

    `Image.open` would try all decoders of pillow, and its pixel limit is global.
    """
    from PIL.GifImagePlugin import GifImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    decoders: dict[str, Callable[[BinaryIO], Any]] = {
        "JPEG": JpegImageFile,
        "PNG": PngImageFile,
        "WebP": WebPImageFile,
        "GIF": GifImageFile,
    }
    return decoders[kind]


def _is_one_scan(file: BinaryIO) -> bool:
    """Whether a JPEG can be decoded row by row: sequential, with all colors in one scan.

    For any other JPEG, all coefficients are held at full size.
    """
    file.seek(2)
    colors = 0
    while len(head := file.read(4)) == 4:
        marker, length = struct.unpack(">HH", head)
        body = file.read(max(length - 2, 0))
        if marker in (0xFFC0, 0xFFC1) and len(body) > 5:
            colors = body[5]
        elif marker == 0xFFDA:
            return bool(body) and body[0] == colors
        elif not 0xFFC0 <= marker <= 0xFFFE:
            return False
    return False


def need_pillow() -> None:
    """Raise `MissingExtraError` if pillow is not installed."""
    try:
        import PIL  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise MissingExtraError("pillow", "vision") from None
