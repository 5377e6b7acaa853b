"""Reads the texts of a corpus: plain text or JSON lines, compressed or not, and folders of them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.core.errors import OptionError
from outrider.inputs.documents.folders import TEXT_SUFFIXES, files_below, is_about, is_hidden
from outrider.inputs.lines import numbered_lines, open_text, read_text, unpacked_name

_ANSWERS = ("response", "completion", "output", "answer")
_CONVERT = "Convert it, or leave it out"


@dataclass(frozen=True, slots=True)
class CorpusFiles:
    """The files of a corpus.

    Attributes:
        read: the files to read, each once.
        passed_over: other files in the folders: hidden files and folders, other types, and
            `folders.ABOUT`.
    """

    read: tuple[Path, ...]
    passed_over: tuple[Path, ...]


def corpus_files(places: Sequence[Path]) -> CorpusFiles:
    """Find the files of a corpus: named files of any type, and text files at any depth in folders.

    Raises:
        OptionError: a place is missing or cannot be read, or a folder holds no text.
    """
    read: dict[Path, Path] = {}
    passed_over: dict[Path, Path] = {}
    for place in places:
        if place.is_dir():
            inside = list(files_below(place))
            texts = [file for file in inside if _is_text(file, place)]
            if not texts:
                raise OptionError(
                    f"{place} holds no text",
                    hint=f"Files end in .jsonl, {', '.join(TEXT_SUFFIXES)}, or these and .zst; "
                    "give hidden files and READMEs by name",
                )
            passed_over |= {file.resolve(): file for file in set(inside) - set(texts)}
        elif place.exists():
            texts = [place]
        else:
            raise OptionError(f"no corpus at {place}", hint="Give files of text, or a folder")
        for file in texts:
            read.setdefault(file.resolve(), file)
    others = (file for real, file in passed_over.items() if real not in read)
    return CorpusFiles(tuple(read.values()), tuple(sorted(others)))


def read_documents(file: Path) -> Iterator[str]:
    """Yield the texts of a file: one for each line of a .jsonl file, one for any other file.

    A record holds its text under `text`, or under `prompt` with an optional answer under
    `response`, `completion`, `output` or `answer`.

    Raises:
        OptionError: the file cannot be read, or a line holds no text.
        MissingExtraError: a .zst file without the package that decompresses it.
    """
    if unpacked_name(file).suffix == ".jsonl":
        lines = numbered_lines(file, hint=_CONVERT)
        yield from (_text(line, file, number) for number, line in lines)
    else:
        with open_text(file, hint=_CONVERT) as stream:
            yield _whole(read_text(stream, str(file)), file)


def _is_text(file: Path, folder: Path) -> bool:
    plain = unpacked_name(file)
    told = not is_hidden(file, folder) and not is_about(plain.stem)
    return told and plain.suffix in (".jsonl", *TEXT_SUFFIXES)


def _whole(text: str, file: Path) -> str:
    if "\0" in text:
        raise OptionError(f"{file} holds null bytes, so it is not text", hint=_CONVERT)
    return text


def _text(line: str, file: Path, number: int) -> str:
    try:
        text = _text_of(json.loads(line))
        if text is not None:
            text.encode()  # JSON can hold half a surrogate pair, which is not text
            return text
    except (ValueError, RecursionError):
        pass
    raise OptionError(
        f"line {number} of {file} is {line.strip()!r:.60}",
        hint='Expected {"text": "..."} or {"prompt": "...", "response": "..."}',
    )


def _text_of(record: Any) -> str | None:
    if isinstance(record, dict):
        if isinstance(record.get("text"), str):
            return record["text"]
        if isinstance(record.get("prompt"), str):
            parts = [record["prompt"], *(record.get(name) for name in _ANSWERS)]
            return "\n".join(part for part in parts if isinstance(part, str))
    return None
