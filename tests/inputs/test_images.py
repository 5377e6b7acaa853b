"""Image files: what is read is upright RGB; what cannot be read says why, in one line."""

import io
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("PIL")

from PIL import Image

from outrider.core.errors import MissingExtraError, OptionError
from outrider.inputs.images.files import find_images, read_image
from outrider.inputs.images.pixels import LARGEST, as_rgb, halvings

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def save(path: Path, image: Any, **settings: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **settings)
    return path


def halves(mode: str = "RGB", left: Any = RED, right: Any = BLUE) -> Any:
    """An image of two halves, wider than high."""
    image = Image.new(mode, (32, 16), left)
    image.paste(right, (16, 0, 32, 16))
    return image


def near(image: Any, place: tuple[int, int], color: tuple[int, ...], by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(image.getpixel(place), color, strict=True))


def error_of(path: Path) -> str:
    with pytest.raises(OptionError) as caught:
        read_image(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


# -- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif"])
def test_each_kind_is_read_as_rgb_whatever_the_name_says(kind: str, tmp_path: Path) -> None:
    true = save(tmp_path / f"image.{kind}", halves())
    renamed = tmp_path / "image.txt"
    renamed.write_bytes(true.read_bytes())
    for path in (true, renamed):
        image = read_image(path)
        assert (image.mode, image.size) == ("RGB", (32, 16))
        assert near(image, (4, 8), RED)
        assert near(image, (28, 8), BLUE)


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE)]
    for kind in ("gif", "webp", "png"):
        path = save(tmp_path / f"a.{kind}", frames[0], save_all=True, append_images=frames[1:])
        assert near(read_image(path), (4, 4), RED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(orientation: int, tmp_path: Path) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("jpg", "png", "webp"):
        path = save(tmp_path / f"turned.{kind}", halves(), exif=exif, quality=95)
        with Image.open(path) as file:
            expected = ImageOps.exif_transpose(file).convert("RGB")
        found = read_image(path)
        assert np.array_equal(np.asarray(found), np.asarray(expected))
        assert np.array_equal(np.asarray(as_rgb(found)), np.asarray(expected))  # once is enough


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_or_odd_exif_loses_no_image(tmp_path: Path) -> None:
    for number, data in enumerate((b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0rubbish")):
        path = save(tmp_path / f"{number}.jpg", halves(), exif=data)
        assert read_image(path).size == (32, 16)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA", "PA"])
def test_every_mode_keeps_its_picture(mode: str, tmp_path: Path) -> None:
    image = halves(left=WHITE, right=(0, 0, 0)).convert(mode)
    kind = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    found = as_rgb(image) if mode == "PA" else read_image(save(tmp_path / f"a.{kind}", image))
    assert found.mode == "RGB"
    assert near(found, (4, 8), WHITE)
    assert near(found, (28, 8), (0, 0, 0))


def test_cmyk_colors_are_not_inverted(tmp_path: Path) -> None:
    found = read_image(save(tmp_path / "a.jpg", halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0))))
    assert near(found, (4, 8), RED)
    assert near(found, (28, 8), BLUE)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    path = save(tmp_path / "a.png", Image.fromarray(values))
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    whole = Image.fromarray(values.astype(np.int32))
    assert whole.mode == "I"
    assert np.asarray(as_rgb(whole))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_sixteen_bit_colors_are_scaled(tmp_path: Path) -> None:
    """Pillow cannot write them, so the file is spelled out."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    row = b"\0" + struct.pack(">3H", 65535, 32768, 300)
    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b""))
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert read_image(path).getpixel((0, 0)) == (255, 128, 1)


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    see_through = halves("RGBA", (255, 0, 0, 0), (0, 0, 255, 255))
    grey = halves("LA", (0, 0), (0, 255))
    palette = halves("P", 0, 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    keyed = halves("RGB", (1, 2, 3), BLUE)
    cases: list[tuple[str, Any, dict[str, Any], tuple[int, ...]]] = [
        ("a.png", see_through, {}, BLUE),
        ("a.webp", see_through, {"lossless": True}, BLUE),
        ("b.png", grey, {}, (0, 0, 0)),
        ("c.png", palette, {"transparency": 0}, BLUE),
        ("c.gif", palette, {"transparency": 0}, BLUE),
        ("d.png", palette, {"transparency": b"\0\xff"}, BLUE),
        ("e.png", keyed, {"transparency": (1, 2, 3)}, BLUE),
    ]
    for name, image, settings, right in cases:
        found = read_image(save(tmp_path / name, image, **settings))
        assert near(found, (4, 8), WHITE, by=0), name
        assert near(found, (28, 8), right, by=0), name
    see_through.load()
    assert see_through.mode == "RGBA"  # what was given stays as it was
    half = as_rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))
    assert near(half, (0, 0), (127, 127, 127), by=1)


# -- what is too large ----------------------------------------------------------------------


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_halvings_are_the_fewest_that_fit(width: int, height: int) -> None:
    factor = halvings((width, height))
    assert -(-width // factor) * -(-height // factor) <= LARGEST
    if factor > 1:
        less = factor // 2
        assert -(-width // less) * -(-height // less) > LARGEST


def peak_megabytes() -> Iterator[float]:
    """How far memory has grown between two `next`, at its highest."""

    def kilobytes(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    yield 0.0
    yield (kilobytes("VmHWM") - before) / 1024


needs_proc = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory cannot be told"
)


@needs_proc
def test_a_plain_jpeg_of_100_megapixels_is_decoded_small(tmp_path: Path) -> None:
    path = save(tmp_path / "huge.jpg", Image.new("RGB", (12500, 8000), RED))
    peak = peak_megabytes()
    next(peak)
    image = read_image(path)
    assert next(peak) < 120  # 100 megapixels alone are 400
    assert image.size == (3125, 2000)
    assert near(image, (1500, 1000), RED)


@needs_proc
@pytest.mark.parametrize(
    "kind",
    [
        "png",
        "progressive.jpg",
        "planes.jpg",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gif", "webp")),
    ],
)
def test_other_images_of_100_megapixels_are_refused_before_they_are_decoded(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"huge.{kind}"
    if kind == "planes.jpg":
        path.write_bytes(in_planes(Image.new("RGB", (8, 8)), (12500, 8000)))
    elif kind == "progressive.jpg":
        path.write_bytes(resized(Image.new("RGB", (8, 8)), (12500, 8000), progressive=True))
    else:
        size = (12500, 8000)
        save(
            path,
            Image.new("1", size),
            **({"lossless": True, "method": 0} if kind == "webp" else {}),
        )
    peak = peak_megabytes()
    next(peak)
    assert "too many pixels (12500 x 8000); at most 40 million" in error_of(path)
    assert next(peak) < 60


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    for name, side in (("a.jpg", 65000), ("b.png", 2**31 - 1)):
        small = io.BytesIO()
        Image.new("RGB", (8, 8)).save(small, "JPEG" if name == "a.jpg" else "PNG", progressive=True)
        data = bytearray(small.getvalue())
        if name == "a.jpg":
            data = bytearray(resized(Image.new("RGB", (8, 8)), (side, side), progressive=True))
        else:
            data[16:24] = struct.pack(">II", side, side)
            data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path = tmp_path / name
        path.write_bytes(data)
        assert "too many pixels" in error_of(path)


def test_large_images_are_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outrider.inputs.images.pixels.LARGEST", 100)
    for kind in ("jpg", "png", "gif", "webp"):
        image = read_image(save(tmp_path / f"a.{kind}", halves()))
        assert image.size == (8, 4), kind
        assert near(image, (1, 2), RED, by=30)
        assert near(image, (6, 2), BLUE, by=30)
    assert read_image(save(tmp_path / "line.jpg", Image.new("RGB", (1, 3000)))).width == 1


def resized(image: Any, size: tuple[int, int], **settings: Any) -> bytes:
    """A JPEG that claims another size."""
    out = io.BytesIO()
    image.save(out, "JPEG", **settings)
    data = bytearray(out.getvalue())
    frame = data.index(b"\xff\xc2" if settings.get("progressive") else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", size[1], size[0])
    return bytes(data)


def in_planes(image: Any, size: tuple[int, int]) -> bytes:
    """A sequential JPEG whose first scan has one colour only."""
    data = bytearray(resized(image, size))
    scan = data.index(b"\xff\xda")
    return bytes(data[: scan + 2]) + b"\0\x08\x01\x01\0\0\x3f\0" + bytes(data[scan + 14 :])


# -- what cannot be read -------------------------------------------------------------------


def test_each_fault_has_its_line(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("This is no picture, though it is called one.\n" * 10)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    noise = tmp_path / "noise.gif"
    noise.write_bytes(bytes(range(128, 256)))
    heic = tmp_path / "photo.heic"
    heic.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    tiff = save(tmp_path / "scan.tiff", halves())
    assert "is text, not an image" in error_of(text)
    assert "is empty (0 bytes)" in error_of(empty)
    assert "not an image of a known type" in error_of(noise)
    assert "HEIC" in error_of(heic)
    assert "a TIFF file" in error_of(tiff)
    assert "is a folder" in error_of(tmp_path)
    assert "there is no file" in error_of(tmp_path / "missing.png")
    assert "JPEG, PNG, WebP and GIF" in error_of(text)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif"])
def test_files_that_are_cut_off_are_damaged_wherever_the_cut_is(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = save(tmp_path / f"whole.{kind}", Image.fromarray(noise)).read_bytes()
    for share in (0.02, 0.1, 0.5, 0.9):
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(whole[: max(int(len(whole) * share), 13)])
        assert "damaged" in error_of(path)


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]), st.data())
def test_no_damage_raises_anything_but_one_line(kind: str, data: st.DataObject) -> None:
    out = io.BytesIO()
    halves().save(out, kind)
    content = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.NamedTemporaryFile(suffix=".img") as file:
        Path(file.name).write_bytes(content)
        try:
            assert read_image(file.name).mode == "RGB"
        except OptionError as error:
            assert file.name in str(error)
            assert "\n" not in str(error)


def test_images_without_pixels(tmp_path: Path) -> None:
    out = io.BytesIO()
    halves().save(out, "PNG")
    data = bytearray(out.getvalue())
    data[16:20] = struct.pack(">I", 0)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path = tmp_path / "flat.png"
    path.write_bytes(data)
    assert "a side has no pixels" in error_of(path)
    with pytest.raises(OptionError, match="0 x 5 pixels"):
        as_rgb(Image.new("RGB", (0, 5)))


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert "is not a file" in error_of(pipe)


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who may not read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that anyone may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_files_and_folders_that_may_not_be_read(open_folder: Path) -> None:
    path = save(open_folder / "photos" / "inner" / "a.png", halves())
    path.chmod(0)
    with nobody():
        assert "cannot be read: Permission denied" in error_of(path)
    for locked in (path.parent, path.parent.parent):
        locked.chmod(0)
        with nobody(), pytest.raises(OptionError) as caught:
            find_images([open_folder / "photos"])
        locked.chmod(0o755)
        assert f"{locked} cannot be read: Permission denied" in str(caught.value)


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", halves())
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"outrider\[vision\]"):
        read_image(path)
