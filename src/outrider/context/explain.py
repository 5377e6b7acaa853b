"""What was read of a long input, when, and why: as a picture, a page and figures."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from outrider.context.reading import Reading
from outrider.errors import OptionError
from outrider.types import LongContext

MAP, PAGE, FIGURES = "map.png", "text.html", "context.json"
"""Names of what is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One selection over the time of its answer.

    Attributes:
        context: the long input.
        times: `[looks + 1]` generated tokens at each look, then at the end.
        scores: `[looks, chunks]`.
        read: `[looks, chunks]` whether a chunk was read from that look to the next.
    """

    context: LongContext
    times: tuple[int, ...]
    scores: Float64[ndarray, "looks chunks"]
    read: Bool[ndarray, "looks chunks"]

    @classmethod
    def of(cls, reading: Reading, written: int) -> "History":
        """The history of `reading` after `written` generated tokens."""
        looks = reading.selection.looks
        chunks = len(reading.selection.context.chunks)
        read = np.zeros((len(looks), chunks), dtype=bool)
        for row, look in zip(read, looks, strict=True):
            row[list(look.chosen)] = True
        scores = np.array([look.scores for look in looks]).reshape(len(looks), chunks)
        last = max(written, looks[-1].generated + 1)
        times = (*(look.generated for look in looks), last)
        return cls(context=reading.selection.context, times=times, scores=scores, read=read)

    @property
    def shares(self) -> Float64[ndarray, " chunks"]:
        """For which share of the answer each chunk was read."""
        spans = np.diff(self.times).astype(np.float64)
        return spans @ self.read / spans.sum()

    @property
    def swaps(self) -> list[tuple[int, int, bool]]:
        """Each change after the first choice: generated tokens, chunk, whether it came or went."""
        changed = np.argwhere(self.read[1:] != self.read[:-1])
        return [(self.times[i + 1], int(c), bool(self.read[i + 1, c])) for i, c in changed]

    def name(self, chunk: int) -> str:
        """What a chunk is from; empty for a nameless input."""
        return self.context.names[chunk] if self.context.names else ""


def check_folder(folder: Path) -> None:
    """Raise `OptionError` where an explanation could not be written later."""
    at = folder
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir():
        raise OptionError(
            f"explanations can not be written to {folder}: {at} is a file", hint="Give a folder"
        )
    if not os.access(at, os.W_OK | os.X_OK):
        raise OptionError(
            f"explanations can not be written to {folder}: {at} is read-only",
            hint="Give another folder",
        )


def explain(reading: Reading, folder: Path, *, written: int, answer: str = "") -> tuple[Path, ...]:
    """Write a map (`MAP`), the shaded text (`PAGE`) and all scores (`FIGURES`) into `folder`.

    All three are made before one of them is written. Those of an earlier run are replaced.

    Args:
        reading: what was read.
        folder: made if missing.
        written: generated tokens.
        answer: their text.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: the folder can not be written to.
    """
    from outrider.context.explain_html import page
    from outrider.context.explain_map import picture

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
        raise OptionError(f"{folder} can not be written to: {error.strerror}") from None
    return tuple(folder / name for name in contents)


def recorded(reading: Reading, history: History) -> dict[str, Any]:
    """Everything as plain data: figures, chunks, and all looks with their scores."""
    context = history.context
    starts = context.starts  # counted anew each time it is asked for
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
        "looks": [
            {
                "generated": look.generated,
                "scores": [round(float(score), 6) for score in look.scores],
                "admitted": list(look.admitted),
                "evicted": list(look.evicted),
                "chosen": list(look.chosen),
            }
            for look in reading.selection.looks
        ],
    }
