"""Reads the raw results of a run: a file of JSON lines, or the folder of an interrupted one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outrider.bench.journal import RUNS, SETTINGS
from outrider.bench.measure import Run
from outrider.core.errors import OptionError

_ABOUT = ("commit", "versions", "device", "threads", "models", "settings", "environment")
"""Parts of a summary that describe how it was measured."""
_MAKING = "Give the file of `outrider bench --out FILE.jsonl`, or the folder of `--out FOLDER`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The raw results of one run.

    Attributes:
        place: file or folder, as given.
        runs: every text.
        about: versions, device, models and settings, as far as they are stored.
        least_tokens: shorter texts are too short to measure a speed.
    """

    place: Path
    runs: Sequence[Run]
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    least_tokens: int = 8

    @property
    def systems(self) -> list[str]:
        """Names of the strategies and rivals, in the order of the file."""
        return list(dict.fromkeys(run.system for run in self.runs))


def read_results(place: Path) -> Results:
    """Read a file or folder.

    Raises:
        OptionError: it does not exist, holds no texts, or is damaged.
    """
    file = place / RUNS if place.is_dir() else place
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        settings = (place / SETTINGS).read_text(encoding="utf-8") if place.is_dir() else "{}"
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise OptionError(f"{file} cannot be read: {reason}", hint=_MAKING) from None
    runs: list[Run] = []
    about: dict[str, Any] = {}
    number = 0
    try:
        if place.is_dir():
            about["settings"] = json.loads(settings)
        for number, line in enumerate(lines, start=1):  # noqa: B007 (the error names it)
            _take(json.loads(line), runs, about)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise OptionError(
            f"line {number} of {file} is no result of a bench", hint=_MAKING
        ) from None
    if not runs:
        raise OptionError(f"{file} holds no texts, only a summary", hint=_MAKING)
    least = about.get("settings", {}).get("least_tokens", 8)
    return Results(place=place, runs=runs, about=about, least_tokens=least)


def _take(line: dict[str, Any], runs: list[Run], about: dict[str, Any]) -> None:
    kind = line.pop("kind")
    if kind == "run":
        runs.append(Run(**line))
    elif kind == "summary":
        about.update({name: line[name] for name in _ABOUT if name in line})
    elif kind == "fact" and line["name"] == "environment":
        value = line["value"]
        about.update({name: value[name] for name in _ABOUT if name in value})
