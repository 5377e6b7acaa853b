"""Texts of a corpus: files of plain text or JSON lines, packed or not, and folders of them."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from outrider.errors import MissingExtraError, OptionError

TEXT_SUFFIXES = (".txt", ".md", ".text", ".py", ".rst")
"""Files of a folder that are read as plain text."""

_ANSWERS = ("response", "completion", "output", "answer")


def corpus_files(places: Sequence[Path]) -> list[Path]:
    """The files of a corpus: those named, and those that folders hold at any depth, by name.

    Raises:
        OptionError: a place is missing, or a folder holds no text.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = [p for p in sorted(place.rglob("*")) if p.is_file() and _is_text(p)]
            if not inside:
                raise OptionError(
                    f"{place} holds no text",
                    hint=f"Files end in .jsonl, {', '.join(TEXT_SUFFIXES)}, or these and .zst",
                )
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise OptionError(f"no corpus at {place}", hint="Give files of text, or a folder")
    return found


def read_documents(file: Path) -> Iterator[str]:
    """The texts of a file: each line of a .jsonl has one, any other file is one.

    A record is text under `text`, or under `prompt` and, where there is one, an answer under
    `response`, `completion`, `output` or `answer`.

    Raises:
        OptionError: the file can not be read, or a line holds no text.
        MissingExtraError: a .zst without the package that unpacks it.
    """
    plain = file.with_suffix("") if file.suffix == ".zst" else file
    try:
        with file.open("rb") as raw:
            stream = _unpacked(raw) if file.suffix == ".zst" else raw
            with io.TextIOWrapper(stream, encoding="utf-8") as lines:
                if plain.suffix == ".jsonl":
                    numbered = enumerate(lines, start=1)
                    yield from (_text(line, file, n) for n, line in numbered if line.strip())
                else:
                    yield lines.read()
    except UnicodeDecodeError:
        raise OptionError(f"{file} is not text in UTF-8") from None
    except OSError as error:
        raise OptionError(f"{file} can not be read: {error.strerror or error}") from None


def _is_text(file: Path) -> bool:
    plain = file.with_suffix("") if file.suffix == ".zst" else file
    return plain.suffix in (".jsonl", *TEXT_SUFFIXES)


def _unpacked(raw: io.BufferedReader) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError("zstandard", "train") from error

    class Unpacked(io.BufferedReader):
        """Says of a damaged file what reading any other one would."""

        def read1(self, size: int = -1, /) -> bytes:
            try:
                return super().read1(size)
            except zstandard.ZstdError as error:
                raise OSError(f"not a zstd file ({error})") from None

    stream: Any = zstandard.ZstdDecompressor().stream_reader(raw)
    return Unpacked(stream)


def _text(line: str, file: Path, number: int) -> str:
    try:
        record: Any = json.loads(line)
    except ValueError:
        record = None
    if isinstance(record, dict):
        if isinstance(record.get("text"), str):
            return record["text"]
        if isinstance(record.get("prompt"), str):
            parts = [record["prompt"], *(record.get(name) for name in _ANSWERS)]
            return "\n".join(part for part in parts if isinstance(part, str))
    raise OptionError(
        f"line {number} of {file} is {line.strip()!r:.60}",
        hint='Expected {"text": "..."} or {"prompt": "...", "response": "..."}',
    )
