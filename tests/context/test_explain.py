"""What was read, explained: figures, a picture, and a page that is safe to open."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from outrider.context.config import ContextConfig
from outrider.context.explain.folder import FIGURES, MAP, PAGE, check_folder, explain
from outrider.context.explain.history import History
from outrider.context.reading import Reading
from outrider.context.selection import Selection
from outrider.core.errors import MissingExtraError, OptionError
from outrider.core.types import LongContext, Passage

SCORES = {0: [0.9, 0.1, 0.8, 0.2], 10: [0.1, 0.9, 0.8, 0.2], 20: [0.1, 0.9, 0.2, 0.8]}
"""Of four chunks, by the tokens written before."""


class Scripted:
    """Says what `SCORES` has for the number of recent tokens."""

    def scores(self, query: Passage, recent: Passage | None, mix: float) -> np.ndarray:
        return np.array(SCORES[len(recent) if recent else 0])


def reading(
    names: tuple[str, ...] = (),
    text: str = "Piece {} & more.\n",
    decisions: tuple[int, ...] = (10, 20),
) -> Reading:
    chunks = tuple(Passage(text.format(i), (7,) * (5 + i)) for i in range(4))
    context = LongContext(
        start=2, chunks=chunks, query=Passage("What <b>now</b>?", (1,)), names=names
    )
    config = ContextConfig(keep_ratio=0.5, pin_ends=False, max_swaps=1)
    selection = Selection(context, Scripted(), config, 1000)
    selection.begin()
    for written in decisions:
        selection.refresh(written, Passage("", (1,) * written))
    return Reading(
        selection=selection, selector="apce", encoder="minilm", prompt_tokens=40, refreshes=2
    )


def test_a_history() -> None:
    history = History.of(reading(), written=40)
    assert history.times == (0, 10, 20, 40)
    assert history.read.tolist() == [
        [True, False, True, False],
        [False, True, True, False],
        [False, True, False, True],
    ]
    assert history.shares.tolist() == [0.25, 0.75, 0.5, 0.5]
    assert sorted(history.swaps) == [
        (10, 0, False),
        (10, 1, True),
        (20, 2, False),
        (20, 3, True),
    ]


def test_before_anything_was_written() -> None:
    history = History.of(reading(decisions=()), written=0)
    assert history.times == (0, 1) and history.shares.tolist() == [1, 0, 1, 0]


def test_three_files_in_a_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    check_folder(folder)
    assert not folder.exists()
    written = explain(reading(), folder, written=40, answer="So it is.")
    assert sorted(path.name for path in folder.iterdir()) == sorted([MAP, PAGE, FIGURES])
    assert {path.name for path in written} == {MAP, PAGE, FIGURES}
    assert (folder / MAP).read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / FIGURES).read_text())
    assert [decision["scores"] for decision in found["decisions"]] == list(SCORES.values())
    assert [decision["chosen"] for decision in found["decisions"]] == [[0, 2], [1, 2], [1, 3]]
    assert found["decisions"][1]["admitted"] == [1] and found["decisions"][1]["evicted"] == [0]
    assert [chunk["start"] for chunk in found["chunk_list"]] == [0, 5, 11, 18]
    assert [chunk["read"] for chunk in found["chunk_list"]] == [0.25, 0.75, 0.5, 0.5]
    assert (found["swaps"], found["generated"], found["chunks"]) == (2, 40, 4)
    explain(reading(), folder, written=40)  # again


class Structure(HTMLParser):
    """Opened and closed elements, and what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seen: set[str] = set()
        self.addresses: list[str] = []
        self.styles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [name for name, _ in attrs if name in ("href", "src", "onclick")]
        self.styles += [value or "" for name, value in attrs if name == "style"]
        if tag not in ("meta", "br"):
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_a_page_that_is_safe(tmp_path: Path) -> None:
    evil = "</div><script>alert({})</script> \ud800 &amp; "
    names = ("a<script>.md", "a<script>.md", 'b"onclick="x', 'b"onclick="x')
    explain(reading(names, evil), tmp_path, written=40, answer="<img src=x>")
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    found = Structure()
    found.feed(page)
    assert found.stack == [] and not found.addresses
    assert not found.seen & {"script", "img", "link", "iframe", "b&quot;"}
    assert page.count("&lt;/div&gt;&lt;script&gt;alert(") == 4
    assert "&lt;img src=x&gt;" in page and "What &lt;b&gt;now&lt;/b&gt;?" in page
    assert found.styles == ["--read:0.250", "--read:0.750", "--read:0.500", "--read:0.500"]
    assert page.count("<h2>a&lt;script&gt;.md</h2>") == 1
    assert re.findall("prefers-color-scheme: dark", page)


@pytest.mark.usefixtures("unchecked")
def test_inputs_of_ids_alone_and_large_ones(tmp_path: Path) -> None:
    explain(reading(text=""), tmp_path, written=40)
    assert "5 tokens" in (tmp_path / PAGE).read_text()
    chunks = tuple(Passage("word " * 200, (1,) * 200) for _ in range(600))
    names = tuple(f"${i // 10}^file_{{" for i in range(600))
    context = LongContext(start=0, chunks=chunks, query=Passage("", (1,)), names=names)

    class Even:
        def scores(self, query: Passage, recent: Passage | None, mix: float) -> np.ndarray:
            return np.zeros(600)

    selection = Selection(context, Even(), ContextConfig(keep_ratio=0.3), 10**9)
    selection.begin()
    whole = Reading(selection=selection, selector="first", encoder=None, prompt_tokens=120_000)
    explain(whole, tmp_path, written=0)
    assert (tmp_path / PAGE).stat().st_size < 2_000_000


def test_places_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OptionError, match="is a file"):
            check_folder(place)
        with pytest.raises(OptionError, match="is a file"):
            explain(reading(), place, written=40)
    assert (tmp_path / "file").read_text() == "x"


def test_without_matplotlib_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="context"):
        explain(reading(), tmp_path / "new", written=40)
    assert not (tmp_path / "new").exists()
