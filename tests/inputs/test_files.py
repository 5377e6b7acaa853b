"""Users' files as documents: what is read, what is passed over, and what is refused."""

import codecs
import os
from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from outrider.core.errors import MissingExtraError, OptionError
from outrider.inputs.documents.files import SUFFIXES, read_bytes, read_files

LINES = ("The opening page speaks of a lighthouse.", "The second one of the sea.")


@pytest.fixture(scope="session")
def pdf() -> bytes:
    """Two pages, each with a line of text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.backends.backend_pdf import PdfPages

    out = BytesIO()
    with PdfPages(out) as pages:
        for line in LINES:
            figure = pyplot.figure(figsize=(6, 1))
            figure.text(0.05, 0.5, line)
            pages.savefig(figure)
            pyplot.close(figure)
    return out.getvalue()


def locked(pdf: bytes, user: str, owner: str = "owner") -> bytes:
    writer, out = PdfWriter(clone_from=PdfReader(BytesIO(pdf))), BytesIO()
    writer.encrypt(user, owner, algorithm="RC4-128")
    writer.write(out)
    return out.getvalue()


def text_of(tmp_path: Path, data: bytes, name: str = "a.txt") -> str:
    (tmp_path / name).write_bytes(data)
    [(called, text)] = read_files([tmp_path / name])
    assert called == name
    return text


def refusal(tmp_path: Path, data: bytes, name: str = "a.txt") -> str:
    with pytest.raises(OptionError) as refused:
        text_of(tmp_path, data, name)
    said = str(refused.value)
    assert "\n" not in said and name in said
    return said


# -- plain text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
    ],
)
def test_unicode(encoding: str, mark: bytes, tmp_path: Path) -> None:
    assert text_of(tmp_path, mark + "Ein Grünes 漢字.\n".encode(encoding)) == "Ein Grünes 漢字.\n"


def test_text_stays_as_it_is(tmp_path: Path) -> None:
    markdown = "# Title\n\n* one  \n* two\n\n\n    code\t.\n"
    assert text_of(tmp_path, markdown.encode(), "a.md") == markdown
    assert text_of(tmp_path, b"a\r\nb\r\n") == "a\nb\n"
    assert text_of(tmp_path, b"<p>no page</p>") == "<p>no page</p>"


def test_a_line_of_100_kb(tmp_path: Path) -> None:
    line = "word " * 20_000
    assert text_of(tmp_path, line.encode()) == line


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (bytes(range(256)), "is a binary file, not text. Text, Markdown, HTML and PDF are read"),
        (b"PK\x03\x04\x14\x00\x06\x00", "is a binary file"),
        (bytes([1, 2, 3, 4, 5, 6, 7, 8] * 9), "is a binary file"),
        ("Grün".encode("latin-1"), "is not text in UTF-8. Convert it"),
        (codecs.BOM_UTF16_LE + b"abc", "is marked as UTF-16, but cannot be decoded"),
        (codecs.BOM_UTF8 + b"a\xff", "is marked as UTF-8, but cannot be decoded"),
    ],
)
def test_what_is_no_text(data: bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, data)


# -- pages -------------------------------------------------------------------------------------

PAGE = """<!doctype html><html><head><title>T</title><style>p {}</style></head><body>
<h1>A   title</h1><p>One
sentence, <b>bold</b> and <i>slanted</i>.</p><p>Two<br>lines &amp; more.</p>
<script>alert("x")</script><!-- a remark --><div hidden>no</div><div style="display: none">no</div>
<ul><li>first</li><li>second</li></ul><table><tr><td>a</td><td>b</td></tr></table>
<pre>
def f():
    return 1
</pre></body></html>"""


def test_visible_text_of_a_page(tmp_path: Path) -> None:
    assert text_of(tmp_path, PAGE.encode(), "a.html") == (
        "A title\n\nOne sentence, bold and slanted.\n\nTwo\nlines & more.\n\n"
        "- first\n- second\n\na b\n\ndef f():\n    return 1"
    )


def test_encodings_of_pages(tmp_path: Path) -> None:
    page = '<meta charset="iso-8859-1"><p>Grün</p>'
    assert text_of(tmp_path, page.encode("latin-1"), "a.htm") == "Grün"
    assert "is not text in UTF-8" in refusal(tmp_path, "<p>Grün".encode("latin-1"), "a.html")
    assert "UTF-8" in refusal(tmp_path, b'<meta charset="klingon"><p>\xff', "a.html")


def test_pages_without_text_and_deep_ones(tmp_path: Path) -> None:
    assert "holds no text" in refusal(tmp_path, b"<p> <script>1</script>", "a.html")
    assert text_of(tmp_path, b"<div>" * 3000 + b"deep", "a.html") == "deep"


# -- PDF ---------------------------------------------------------------------------------------


def test_pages_of_a_pdf(pdf: bytes, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    (tmp_path / "a.pdf").write_bytes(pdf)
    told = read_files([tmp_path / "a.pdf"], lambda *how_far: seen.append(how_far))
    assert told == [("a.pdf", "\n\n".join(LINES))]
    assert seen == [(0, 1, "a.pdf"), (1, 2, "a.pdf"), (2, 2, "a.pdf")]
    assert text_of(tmp_path, pdf, "no-suffix") == "\n\n".join(LINES)


def test_encrypted_pdfs(pdf: bytes, tmp_path: Path) -> None:
    assert "a.pdf is encrypted. Remove the pass" in refusal(tmp_path, locked(pdf, "pw"), "a.pdf")
    assert text_of(tmp_path, locked(pdf, ""), "a.pdf") == "\n\n".join(LINES)


def test_scanned_and_damaged_pdfs(pdf: bytes, tmp_path: Path) -> None:
    writer, out = PdfWriter(), BytesIO()
    writer.add_blank_page(72, 72)
    writer.write(out)
    assert "holds no text: its 1 pages are images" in refusal(tmp_path, out.getvalue(), "a.pdf")
    assert "cannot be read as PDF" in refusal(tmp_path, b"%PDF-1.4\nnothing", "a.pdf")
    assert "cannot be read as PDF" in refusal(tmp_path, pdf[: len(pdf) // 3], "a.pdf")


def test_missing_packages(monkeypatch: pytest.MonkeyPatch, pdf: bytes) -> None:
    for package, data in (("pypdf", pdf), ("bs4", PAGE.encode())):
        with monkeypatch.context() as patch, pytest.raises(MissingExtraError, match="context"):
            patch.setitem(__import__("sys").modules, package, None)
            read_bytes(data, "a.html")


# -- several -----------------------------------------------------------------------------------


def test_folders(pdf: bytes, tmp_path: Path) -> None:
    texts = {"b.txt": b"b", "a/c.md": b"c", "a/page.html": b"<p>p", "z.pdf": pdf}
    others = {"README.md": b"r", "LICENSE.txt": b"l", ".h.txt": b"h", "a/.git/x.txt": b"g"}
    others |= {"e.txt": b"", "picture.png": b"\x89PNG", "f.docx": b"PK"}
    for name, data in (texts | others).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found = read_files([tmp_path])
    assert [name for name, _ in found] == ["b.txt", "z.pdf", "a/c.md", "a/page.html"]
    assert [name for name, _ in read_files([tmp_path / "README.md"])] == ["README.md"]
    assert read_files([tmp_path / "a" / "c.md", tmp_path])[0] == ("c.md", "c")
    assert len(read_files([tmp_path, tmp_path / "a", tmp_path / "b.txt"])) == 4


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
    found = dict(read_files([tmp_path / "a" / "x.txt", str(tmp_path / "b" / "x.txt")]))
    assert found == {str(tmp_path / name / "x.txt"): name for name in ("a", "b")}


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = tmp_path / os.fsdecode(b"na\xffme.txt")
    try:
        name.write_text("one")
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    [(called, text)] = read_files([name])
    assert (called, text) == ("na\N{REPLACEMENT CHARACTER}me.txt", "one")


@pytest.mark.parametrize("place", ["a" * 300, "~nobody-of-this-name/x"])
def test_places_that_can_not_be(place: str) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_files([place])


def test_a_text_about_pdf_is_a_text(tmp_path: Path) -> None:
    assert text_of(tmp_path, b"A PDF begins with %PDF-1.4.") == "A PDF begins with %PDF-1.4."


def test_damaged_pdfs_are_refused_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refusal(tmp_path, b"%PDF-1.4\n garbage", "a.pdf")
    assert not caplog.records


def test_places_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"there is no file .*nowhere\.txt\. Text, Markdown"):
        read_files([tmp_path / "nowhere.txt"])
    (tmp_path / "data.bin").write_bytes(b"\0")
    with pytest.raises(OptionError, match=r"holds no document\. Files end in .*\.pdf"):
        read_files([tmp_path])
    assert {".txt", ".md", ".html", ".pdf"} <= set(SUFFIXES)


def test_an_empty_name_is_not_the_folder_one_is_in() -> None:
    with pytest.raises(OptionError, match="name of a file is empty"):
        read_files([""])
