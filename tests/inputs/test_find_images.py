"""Image files are found in files, folders and patterns."""

from pathlib import Path

import pytest

pytest.importorskip("PIL")

from outrider.core.errors import OptionError
from outrider.inputs.images.files import find_images
from tests.inputs.test_images import halves, save


def names(found: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "deep/c.webp", ".hidden.png", ".cache/d.png", "deep/.e/f.gif"):
        save(tmp_path / name, halves())
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_folders_are_searched_at_any_depth_without_what_is_hidden(album: Path) -> None:
    assert names(find_images([album]), album) == ["a.PNG", "b.jpg", "deep/c.webp"]


def test_a_file_stands_once_in_the_order_of_the_places(album: Path) -> None:
    (album / "link.jpg").symlink_to(album / "b.jpg")
    places = [
        album / "deep" / "c.webp",
        str(album),
        f"{album}/*.jpg",
        album / "deep" / ".." / "b.jpg",
    ]
    assert names(find_images(places), album) == ["deep/c.webp", "a.PNG", "b.jpg"]


def test_patterns_that_no_shell_has_filled_in(album: Path) -> None:
    assert names(find_images([f"{album}/**/*.webp"]), album) == ["deep/c.webp"]
    assert names(find_images([f"{album}/?.*"]), album) == ["a.PNG", "b.jpg"]
    odd = save(album / "what[1].png", halves())
    assert find_images([odd]) == [odd]


def test_a_named_file_is_kept_whatever_it_is_called(album: Path) -> None:
    places = [album / "notes.txt", album / ".hidden.png"]
    assert find_images(places) == places


def test_a_missing_file_is_kept_for_the_reader_unless_it_is_all(album: Path) -> None:
    missing = album / "missing.png"
    assert find_images([missing, album / "b.jpg"]) == [missing, album / "b.jpg"]
    for places in ([missing], [missing, album / "other.png"], []):
        with pytest.raises(OptionError, match="there is no image at"):
            find_images(places)


def test_folders_and_patterns_that_hold_nothing(album: Path) -> None:
    empty = album / "deep" / ".e" / "none"
    empty.mkdir()
    for place in (str(empty), f"{album}/*.gif", f"{album}/nothing/**/*.png"):
        with pytest.raises(OptionError, match="holds no images"):
            find_images([album, place])
    with pytest.raises(OptionError, match="name of an image is empty"):
        find_images([""])
