"""Writes the explanation of a selection into a folder: an image, a page and figures."""

import json
import os
from pathlib import Path

from outrider.context.explain.history import History
from outrider.context.explain.map import picture
from outrider.context.explain.page import page
from outrider.context.reading import Reading
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

MAP, PAGE, FIGURES = "map.png", "text.html", "context.json"
"""Names of the files that are written."""


def check_folder(folder: Path) -> None:
    """Raise `OptionError` if an explanation cannot be written to `folder`."""
    at = folder
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir():
        raise OptionError(
            f"explanations cannot be written to {folder}: {at} is a file", hint="Give a folder"
        )
    if not os.access(at, os.W_OK | os.X_OK):
        raise OptionError(
            f"explanations cannot be written to {folder}: {at} is read-only",
            hint="Give another folder",
        )


def explain(reading: Reading, folder: Path, *, written: int, answer: str = "") -> tuple[Path, ...]:
    """Write a map (`MAP`), the shaded text (`PAGE`) and all scores (`FIGURES`) into `folder`.

    All three are made before the first is written. Files of an earlier run are replaced.

    Args:
        reading: the record of the selection.
        folder: the output folder; created if missing.
        written: number of generated tokens.
        answer: text of the generated tokens.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: the folder cannot be written to.
    """
    check_folder(folder)
    history = History.of(reading, written)
    figures = json.dumps(recorded(reading, history), ensure_ascii=False, indent=1)
    contents = {
        MAP: picture(history, reading),
        PAGE: page(history, reading, answer).encode("utf-8", "replace"),
        FIGURES: f"{figures}\n".encode("utf-8", "replace"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise OptionError(f"{folder} cannot be written to: {error.strerror}") from None
    return tuple(folder / name for name in contents)


def recorded(reading: Reading, history: History) -> dict[str, JsonValue]:
    """Return plain data: figures, chunks, and all refreshes with their scores."""
    context = history.context
    starts = context.starts  # computed at each access
    return reading.to_dict() | {
        "instruction": context.query.text,
        "generated": history.times[-1],
        "chunk_list": [
            {
                "chunk": i,
                "name": history.name(i),
                "start": starts[i] - context.start,
                "tokens": len(chunk),
                "read": round(float(share), 4),
                "text": chunk.text,
            }
            for i, (chunk, share) in enumerate(zip(context.chunks, history.shares, strict=True))
        ],
        "decisions": [
            {
                "generated": decision.generated,
                "scores": [round(float(score), 6) for score in decision.scores],
                "admitted": list(decision.admitted),
                "evicted": list(decision.evicted),
                "chosen": list(decision.chosen),
            }
            for decision in reading.selection.decisions
        ],
    }
