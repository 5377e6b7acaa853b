"""Files that exhaust a reader of documents, as command lines."""

import gzip
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.pdf_files import TEXT, encrypted, file_of, obj, pages_of, stream

_64_GB = 64 << 30
Make = Callable[[Path], None]

_MILLION = 10**6

PAGES: dict[str, bytes] = {
    "nested": b"<div>" * _MILLION,
    "unclosed": b"<p>x" * _MILLION,
    "void": b"<br>" * (3 * _MILLION),
    "end tags": b"<br>" * _MILLION + b"</x>" * _MILLION,
    "comments": b"<!--" * _MILLION,
    "declarations": b"<!" * _MILLION,
    "instructions": b"<?" * _MILLION,
    "open end tags": b"</" * _MILLION,
    "open start tags": b"<a " * _MILLION,
    "open quotes": b"<a b='" * _MILLION,
    "sections": b"<![CDATA[" * _MILLION,
    "attributes": b"<a " + b"b='c' " * (2 * _MILLION) + b">text",
    "attribute names": b"<a " + b"b" * (20 * _MILLION) + b">",
    "references": b"&" * (3 * _MILLION),
    "wrong section": b"<![foo" + b"x" * 100 + b"]>",
    "punycode": b'<meta charset="punycode">' + b"\xff" * _MILLION,
    "late comment": b"<!--" * 100_000 + b"x>" + b"<p>" * 10,
}

PDFS: dict[str, Callable[[], bytes]] = {
    "pages that expand": lambda: pages_of([TEXT * 20_000] * 100, packed=1),
    "pages that expand twice": lambda: pages_of([b" " * 70_000_000] * 5, packed=2),
    "text operators": lambda: pages_of([TEXT * 200_000]),
    "a long string": lambda: pages_of([b"BT /F1 1 Tf (" + b"a" * 3 * 10**7 + b") Tj ET"]),
    "many pages": lambda: pages_of([TEXT] * 10_001),
    "forms that double": lambda: pages_of(
        [b"/X0 Do"], forms=[b"/X%d Do /X%d Do" % (i + 1, i + 1) for i in range(30)] + [TEXT * 99]
    ),
    "deep arrays": lambda: pages_of([b"[" * 100_000 + b"]" * 100_000 + b" TJ"]),
    "endless page tree": lambda: file_of(
        [
            obj(1, b"<< /Type /Catalog /Pages 2 0 R >>"),
            obj(2, b"<< /Type /Pages /Count 1 /Kids [2 0 R 2 0 R] >>"),
        ]
    ),
    "unknown handler": lambda: encrypted(b"/Filter /Adobe.PubSec /V 4 /SubFilter /x"),
    "unknown version": lambda: encrypted(b"/Filter /Standard /V 9 /R 9 /O (a) /U (a) /P -1"),
    "no permissions": lambda: encrypted(b"/Filter /Standard /V 1 /R 2"),
    "handler of text": lambda: encrypted(b"/Filter (x) /V (y)"),
    "unknown method": lambda: encrypted(
        b"/Filter /Standard /V 4 /R 4 /O (a) /U (a) /P -1 /StmF /X /StrF /X "
        b"/CF << /X << /CFM /Unknown >> >>"
    ),
    "no objects": lambda: file_of([]),
    "length": lambda: b"%PDF-1.4\n1 0 obj<</Length 99999999999>>stream\nabc",
    "table loop": lambda: (
        b"%PDF-1.4\nxref\n0 1\n0000000000 65535 f \ntrailer <</Prev 9 /Root "
        b"1 0 R /Size 1>>\nstartxref\n9\n%%EOF"
    ),
    "bytes": lambda: pages_of([bytes(range(256)) * 1000]),
    "unknown filter": lambda: file_of(
        [
            obj(1, b"<< /Type /Catalog /Pages 2 0 R >>"),
            obj(2, b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>"),
            obj(3, b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /MediaBox [0 0 9 9] >>"),
            stream(4, b"abc", b"/Filter /Unknown"),
        ]
    ),
}


def cases() -> Iterator[Case]:
    """All cases of documents."""
    for name, page in PAGES.items():
        codes = (0, 2) if name in ("attribute names", "references") else (2,)
        yield _summary(f"html, {name}", "x.html", _writer("x.html", page), codes)
    for name, made in PDFS.items():
        codes = (0, 2) if name in ("forms that double", "a long string") else (2,)
        yield _summary(f"pdf, {name}", "x.pdf", lambda folder, made=made: _write(
            folder / "x.pdf", made()), codes)  # fmt: skip
    for suffix in ("txt", "html", "pdf"):
        yield _summary(f"sparse {suffix}", f"x.{suffix}", _sparse(f"x.{suffix}"))
        yield _summary(f"fifo {suffix}", f"x.{suffix}", _fifo(f"x.{suffix}"))
    yield _summary("device", "x.txt", lambda folder: (folder / "x.txt").symlink_to("/dev/zero"))
    yield _summary("a large text", "x.txt", _writer("x.txt", b"word " * (14 * _MILLION)))
    yield _summary("deep folders", ".", _deep)
    yield _summary("folder of bad files", ".", _bad)
    yield Case(
        name="one bad file among others",
        make=_mixed,
        arguments=(*_words("."), "--max-new-tokens", "1"),
        codes=(0,),
        expect="left out",
    )
    yield from _line_cases()


def _line_cases() -> Iterator[Case]:
    makes: dict[str, Make] = {
        "sparse": _sparse("x.jsonl"),
        "fifo": _fifo("x.jsonl"),
        "device": lambda folder: (folder / "x.jsonl").symlink_to("/dev/zero"),
        "deep": _writer("x.jsonl", b"[" * _MILLION),
        "long": _writer("x.jsonl", b'{"text": "' + b"a" * (17 << 20) + b'"}'),
        "digits": _writer("x.jsonl", b'{"text": ' + b"9" * _MILLION + b"}"),
        "half pair": _writer("x.jsonl", b'{"text": "\\ud800"}'),
    }
    for name, make in makes.items():
        words = ("datastore", "build", "{folder}/x.jsonl", "--out", "{folder}/s")
        yield Case(name=f"lines, {name}", make=make, arguments=(*words, "--tokenizer", "tiny"))
    yield Case(
        name="lines, packed",
        make=_writer("x.txt.gz", gzip.compress(b"a" * (300 << 20), 1)),
        arguments=("datastore", "build", "{folder}/x.txt.gz", "--out", "{folder}/s",
                   "--tokenizer", "tiny"),
    )  # fmt: skip


def _words(file: str, *, seconds: int = 3) -> tuple[str, ...]:
    return ("summarize", f"{{folder}}/{file}", "--document-limits", f"seconds={seconds}")


def _summary(name: str, file: str, make: Make, codes: tuple[int, ...] = (2,)) -> Case:
    more = ("--max-new-tokens", "1", "--context-budget", "500") if 0 in codes else ()
    return Case(name=name, make=make, arguments=(*_words(file), *more), codes=codes)


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _writer(name: str, data: bytes) -> Make:
    return lambda folder: _write(folder / name, data)


def _sparse(name: str) -> Make:
    def make(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.write(b"%PDF-1.4\n" if name.endswith("pdf") else b"{")
            file.truncate(_64_GB)

    return make


def _fifo(name: str) -> Make:
    return lambda folder: os.mkfifo(folder / name, stat.S_IRUSR | stat.S_IWUSR)


def _deep(folder: Path) -> None:
    path = folder
    for _ in range(300):  # deeper ones are beyond the removal of the sandbox
        path = path / "d"
        path.mkdir()
    (path / "x.txt").write_text("deep")


def _bad(folder: Path) -> None:
    (folder / "a.pdf").write_bytes(b"%PDF-1.4\nnothing")
    (folder / "b.txt").write_bytes(b"\xff")
    (folder / "c.html").write_bytes(PAGES["nested"])


def _mixed(folder: Path) -> None:
    _bad(folder)
    (folder / "d.txt").write_text("A text that can be read. " * 5)
