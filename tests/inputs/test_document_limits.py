"""Documents that would exhaust the machine are refused in one line, and others are read."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outrider.core.errors import OptionError, OutriderWarning
from outrider.inputs.documents.corpora import corpus_files
from outrider.inputs.documents.corpora import read_documents as read_corpus
from outrider.inputs.documents.files import read_bytes, read_files, read_stream
from outrider.inputs.documents.html import html_text
from outrider.inputs.documents.limits import DocumentLimits
from outrider.inputs.documents.pdf import pdf_text
from outrider.inputs.images.files import find_images, read_image
from outrider.inputs.lines import LineLimits, numbered_lines
from outrider.inputs.prompts.files import read_prompts
from tests.fuzz.pdf_files import TEXT, encrypted, pages_of
from tests.inputs.html_tree import tree_text

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
ONE_GB = 1 << 30


def refusal(call: Callable[[], object], *parts: str) -> str:
    """The one line of the error; it contains all `parts`."""
    with pytest.raises(OptionError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line
    return line


def sparse(path: Path, size: int, head: bytes = b"") -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


# -- the limits ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DocumentLimits, LineLimits])
def test_the_page_states_all_limits(kind: type[DocumentLimits]) -> None:
    section = PAGE.read_text().split("\n## Documents\n")[1].split("\n## ")[0]
    for field in fields(kind):
        row = re.search(rf"^\| `{field.name}` \| ([\d,.]+) \|", section, re.MULTILINE)
        assert row is not None, field.name
        assert float(row[1].replace(",", "")) == field.default


def test_limits_are_parsed() -> None:
    assert DocumentLimits.parse("") == DocumentLimits()
    parsed = DocumentLimits.parse("pages=5000, seconds=1.5, bytes=1e9")
    assert parsed == DocumentLimits(pages=5000, seconds=1.5, bytes=10**9)
    for text in ("page=5", "pages", "pages=x", "pages=0", "seconds=0", "pages=1.5", "pages=5,,"):
        refusal(lambda text=text: DocumentLimits.parse(text))
    refusal(lambda: DocumentLimits.parse("page=5"), "'page'", "Did you mean 'pages'?")


def test_the_error_says_how_to_raise_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    few = DocumentLimits(bytes=3)
    line = refusal(lambda: read_files([tmp_path / "a.txt"], limits=few), "a.txt", "4 bytes")
    assert "(in Python: limits=DocumentLimits(bytes=6))" in line
    option = re.search(r'--document-limits "(.+?)"', line)
    assert option is not None
    [(_, text)] = read_files([tmp_path / "a.txt"], limits=DocumentLimits.parse(option[1]))
    assert text == "text"


# -- files -----------------------------------------------------------------------------------


def test_sparse_files_of_64_gb_are_not_read(tmp_path: Path) -> None:
    for name in ("a.txt", "a.pdf", "a.html"):
        file = sparse(tmp_path / name, 64 * ONE_GB)
        refusal(lambda file=file: read_files([file]), name, "bytes=268435456")
    image = sparse(tmp_path / "a.webp", 64 * ONE_GB, b"RIFF\xff\xff\xff\xffWEBP")
    refusal(lambda: read_image(image), "a.webp", "bytes")


@pytest.mark.skipif(sys.platform == "win32", reason="no such files")
@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_special_files_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    import socket

    path = tmp_path / "x.txt"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.path.relpath(path))
    for read in (
        lambda: read_files([path]),
        lambda: read_prompts(path),
        lambda: list(read_corpus(path)),
        lambda: read_image(path),
    ):
        refusal(read, "x.txt", "not a ")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_standard_input_is_read_up_to_the_limit() -> None:
    with Path("/dev/zero").open("rb") as endless:
        few = DocumentLimits(bytes=10_000)
        refusal(lambda: read_stream(endless, "standard input", limits=few), "standard input")
        assert endless.tell() <= 1 << 20


def test_a_bad_file_does_not_lose_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4\nnothing")
    (tmp_path / "c.html").write_text("<div>" * 20)
    (tmp_path / "d.txt").write_text("last")
    few = DocumentLimits(depth=10)
    with pytest.warns(OutriderWarning) as warned:
        found = read_files([tmp_path], limits=few)
    assert found == [("a.txt", "first"), ("d.txt", "last")]
    assert [str(w.message).split(str(tmp_path))[1][:7] for w in warned] == ["/b.pdf ", "/c.html"]
    with pytest.warns(OutriderWarning, match=r"b\.pdf"):
        assert len(read_files([tmp_path / "b.pdf", tmp_path / "a.txt"])) == 1


def test_bad_files_alone_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xff")
    refusal(lambda: read_files([tmp_path]), "b.txt")


# -- folders ---------------------------------------------------------------------------------


def test_deep_folders(tmp_path: Path) -> None:
    path = tmp_path
    here = os.getcwd()
    try:
        os.chdir(path)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        Path("a.txt").write_text("deep")
    finally:
        os.chdir(here)
    refusal(lambda: read_files([tmp_path]), "folder_depth=64")
    remove_deep(tmp_path / "d")


def test_the_hint_names_the_option_only_where_it_exists(tmp_path: Path) -> None:
    """The commands that read images or a corpus have no limits on documents."""
    deep = tmp_path / "/".join("d" * 70)
    deep.mkdir(parents=True)
    (deep / "a.txt").write_text("deep")
    assert "--document-limits" in refusal(lambda: read_files([tmp_path]), "folder_depth=64")
    for find in (lambda: corpus_files([tmp_path]), lambda: find_images([tmp_path])):
        line = refusal(find, "folder_depth=64", "Give files, or folders within it, by name")
        assert "limits=" not in line
        assert "--document-limits" not in line


def remove_deep(folder: Path) -> None:
    """`shutil.rmtree` recurses; so each folder is moved up and removed."""
    while True:
        inner = folder / "d"
        if not inner.exists():
            break
        os.rename(inner, folder.parent / "e")
        os.rmdir(folder)
        folder = folder.parent / "e"
        os.rename(folder, folder.parent / "d")
        folder = folder.parent / "d"


def test_loops_of_links_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    assert read_files([tmp_path]) == [("a.txt", "a")]


def test_folders_of_many_files(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text("a")
    refusal(lambda: read_files([tmp_path], limits=DocumentLimits(files=5)), "files=5")


# -- HTML ------------------------------------------------------------------------------------

_TAGS = (
    "div", "p", "pre", "b", "li", "br", "hr", "td", "tr", "script", "style", "textarea", "svg",
    "rt", "html", "body", "head", "option", "table", "title",
)  # fmt: skip
_BITS = [
    *(f"<{tag}>" for tag in _TAGS),
    *(f"</{tag}>" for tag in _TAGS),
    *("<div/>", "<br/>", "<b hidden>", "<i style='display: none'>", "</i>", "<a href=x>", "</a>"),
    *("a", " b ", "\n", "\t", "&amp;", "&nbsp;", "&#65;", "&#xe4;", "&#150;", "&#0;", "&foo;"),
    *("&#12abc", "&#", "&#x", "&#xzz;", "&#xd800;", "<!-- c -->", "<!doctype html>", "<?pi?>"),
    *("<![CDATA[x]]>", "<", "</", "<!", "]]>", "'", '"', ">", "="),
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(_BITS), max_size=25).map("".join))
@example("<br></br>a</br>b<p>c<br></p></br>d")
@example("<pre> a <!-- b --> c\n</pre> d <!-- --> e")
@pytest.mark.filterwarnings("ignore")
def test_text_is_that_of_the_tree(page: str) -> None:
    assert read_html(page) == tree_text(page)


def read_html(page: str) -> str | None:
    try:
        return html_text(page.encode(), "a.html")
    except OptionError:
        return None


@pytest.mark.parametrize("digits", ["9" * 10**6, "x" + "f" * 10**6, "0" * 10**6 + "65"])
def test_a_character_reference_of_a_million_digits(digits: str) -> None:
    text = html_text(f"<p>a&#{digits};b".encode(), "a.html")
    assert text == ("aAb" if digits.endswith("65") else "a\N{REPLACEMENT CHARACTER}b")


def test_many_elements_are_refused_before_memory_is_used() -> None:
    few = DocumentLimits(elements=1000, depth=500)
    refusal(lambda: html_text(b"<b>x" * 600, "a.html", few), "a.html", "depth=500")
    refusal(lambda: html_text(b"<br>" * 1001, "a.html", few), "a.html", "elements=1000")


@pytest.mark.parametrize("part", ["<!--", "<!", "<?", "</", "<a ", "<a b='", "<![CDATA["])
def test_incomplete_elements_do_not_take_quadratic_time(part: str) -> None:
    start = time.monotonic()
    refusal(lambda: html_text(part.encode() * 100_000, "a.html"), "a.html cannot be read as HTML")
    assert time.monotonic() - start < 5


def test_html_has_a_time_limit() -> None:
    short = DocumentLimits(seconds=0.05)
    refusal(lambda: html_text(b"<p>x</p>" * 100_000, "a.html", short), "a.html", "seconds=0.05")


def test_texts_have_a_size_limit() -> None:
    few = DocumentLimits(expanded_bytes=10)
    refusal(lambda: read_bytes(b"a" * 11, "a.txt", limits=few), "a.txt", "expanded_bytes=10")
    refusal(lambda: read_bytes(b"a" * 11, "a.html", limits=few), "a.html", "expanded_bytes=10")


# -- PDF -------------------------------------------------------------------------------------


def test_pages_that_expand_by_1000_are_refused_before_they_are_parsed() -> None:
    bomb = pages_of([TEXT * 20_000] * 80, packed=2)
    start = time.monotonic()
    refusal(lambda: pdf_text(bomb, "a.pdf"), "a.pdf", "expanded_bytes")
    assert time.monotonic() - start < 10


def test_text_operators_and_pages_are_counted() -> None:
    few = DocumentLimits(elements=100, pages=5)
    refusal(lambda: pdf_text(pages_of([TEXT * 101]), "a.pdf", None, few), "elements=100")
    refusal(lambda: pdf_text(pages_of([TEXT] * 6), "a.pdf", None, few), "pages=5", "6 pages")


def test_text_operators_have_a_time_limit_in_any_thread() -> None:
    slow, lines = pages_of([TEXT * 150_000]), list[str]()
    short = DocumentLimits(seconds=1)
    thread = threading.Thread(
        target=lambda: lines.append(
            refusal(lambda: pdf_text(slow, "a.pdf", None, short), "a.pdf", "seconds=1")
        )
    )
    start = time.monotonic()
    thread.start()
    thread.join()
    assert lines and time.monotonic() - start < 5


@pytest.mark.skipif(sys.platform != "linux", reason="no limit on memory")
def test_the_memory_of_the_reader_is_limited() -> None:
    few = DocumentLimits(memory_bytes=100 << 20)
    wide = pages_of([b" " * (60 << 20)], packed=2)
    refusal(lambda: pdf_text(wide, "a.pdf", None, few), "a.pdf", "memory_bytes=104857600")


@pytest.mark.parametrize(
    "handler",
    [
        b"/Filter /Adobe.PubSec /V 4 /SubFilter /adbe.pkcs7.s5",
        b"/Filter /Standard /V 9 /R 9 /O (a) /U (a) /P -1",
    ],
)
def test_unknown_encryption_handlers(handler: bytes) -> None:
    refusal(lambda: pdf_text(encrypted(handler), "a.pdf"), "a.pdf is encrypted", "qpdf")


# -- lines and prompts -----------------------------------------------------------------------


def test_lines_have_a_limit(tmp_path: Path) -> None:
    import gzip

    few = LineLimits(line_characters=99)
    for name, data in {"a.jsonl": b"x" * 100, "a.jsonl.gz": gzip.compress(b"x" * 100)}.items():
        (tmp_path / name).write_bytes(data)
        file = tmp_path / name
        refusal(lambda file=file: list(numbered_lines(file, limits=few)), name, "characters=99")
        assert len(list(numbered_lines(file, limits=LineLimits(line_characters=100)))) == 1


def test_sparse_prompt_files_are_not_read(tmp_path: Path) -> None:
    file = sparse(tmp_path / "a.jsonl", 64 * ONE_GB)
    refusal(lambda: read_prompts(file), "a.jsonl", "line_characters")


def test_prompt_files_have_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n" * 100)
    few = LineLimits(text_characters=100)
    refusal(lambda: read_prompts(tmp_path / "a.txt", limits=few), "a.txt", "text_characters=100")


@pytest.mark.parametrize("line", ["[" * 100_000, '{"prompt": "\\ud800"}'])
def test_deep_json_and_half_surrogates_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    refusal(lambda: read_prompts(tmp_path / "a.jsonl"), "prompt 1 of", "a.jsonl")


def test_damaged_gzip_is_one_line(tmp_path: Path) -> None:
    import gzip

    data = bytearray(gzip.compress(b"some text " * 100))
    data[15:25] = b"\xff" * 10
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    refusal(lambda: read_prompts(tmp_path / "a.jsonl.gz"), "a.jsonl.gz cannot be read")
