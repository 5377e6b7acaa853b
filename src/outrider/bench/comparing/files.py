"""Reads the raw results of a run: a file of JSON lines, or the folder of an interrupted one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
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
    text = _text_of(file)
    about: dict[str, Any] = {}
    if place.is_dir():
        about["settings"] = _settings_of(place / SETTINGS)
    runs: list[Run] = []
    # not `splitlines`: a name may hold other separators, such as U+2028
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            _take(json.loads(line), runs, about)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise OptionError(
                f"line {number} of {file} is no result of a bench", hint=_MAKING
            ) from None
    if not runs:
        raise OptionError(f"{file} holds no texts, only a summary", hint=_MAKING)
    return Results(place=place, runs=runs, about=about, least_tokens=_least(about, place))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise OptionError(f"{file} cannot be read: {reason}", hint=_MAKING) from None


def _settings_of(file: Path) -> Any:
    try:
        return json.loads(_text_of(file))
    except (ValueError, RecursionError):
        raise OptionError(f"{file} is damaged", hint=_MAKING) from None


def _least(about: Mapping[str, Any], place: Path) -> int:
    """Return the length from which answers have a speed. Raises `OptionError`."""
    settings = about.get("settings", {})
    if not isinstance(settings, dict):
        raise OptionError(f"the settings of {place} are no settings of a bench", hint=_MAKING)
    least = settings.get("least_tokens", 8)
    if not _count(least):
        raise OptionError(f"least_tokens of {place} is {least!r:.60}", hint=_MAKING)
    return least


def _take(line: dict[str, Any], runs: list[Run], about: dict[str, Any]) -> None:
    kind = line.pop("kind")
    if kind == "run":
        runs.append(_checked(Run(**line)))
    elif kind == "summary":
        about.update({name: line[name] for name in _ABOUT if name in line})
    elif kind == "fact" and line["name"] == "environment":
        value = line["value"]
        about.update({name: value[name] for name in _ABOUT if name in value})


def _checked(run: Run) -> Run:
    """Return a text whose values are of the right kinds. Raises `ValueError`."""
    right = (
        all(isinstance(name, str) for name in (run.system, run.workload, run.task))
        and _count(run.repeat)
        and _count(run.prompt_tokens)
        and isinstance(run.token_ids, list)
        and all(map(_count, run.token_ids))
        and _time(run.seconds)
        and _time(run.ttft_seconds)
        and isinstance(run.parts, dict)
        and all(map(_time, run.parts.values()))
        and (not run.parts or "prefill" in run.parts)
    )
    if not right:
        raise ValueError("not a text of a bench")
    return run


def _count(value: object) -> bool:
    """Whether a value is a whole number of at least 0; `True` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _time(value: object) -> bool:
    """Whether a value is a finite number of at least 0."""
    return isinstance(value, int | float) and 0 <= value < inf
