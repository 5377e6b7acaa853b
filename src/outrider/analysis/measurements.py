"""Files of measurements for `outrider.analysis.planning`: JSON or CSV records."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.core.errors import OptionError, nearest
from outrider.inputs.regular import open_regular, read_at_most

_MOST_BYTES = 1 << 24
FIELDS: Mapping[str, tuple[str, ...]] = {
    "data": ("tokens", "tau"),
    "depth": ("layers", "tau"),
    "width": ("width", "tau"),
    "draft": ("layers", "width", "batch", "seconds"),
    "verify": ("width", "batch", "seconds"),
}
"""The fields of each kind of record."""
_FREE = {"draft": ("width", "batch")}
"""Fields that may be missing: the seconds then hold for all of their values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What was measured for one target.

    Attributes:
        data: (training tokens, tokens a round), of draft models that are equal otherwise.
        depth: (layers, tokens a round), of draft models that are equal otherwise.
        width: (drafted tokens of a round, tokens a round), of one draft model.
        draft: seconds of one draft by (layers, width, batch); None: any.
        verify: seconds of the target's forward by (width, batch). Width 0 is undrafted decoding.
    """

    data: Sequence[tuple[float, float]] = ()
    depth: Sequence[tuple[float, float]] = ()
    width: Mapping[int, float]
    draft: Mapping[tuple[int, int | None, int | None], float]
    verify: Mapping[tuple[int, int], float]


def read_measurements(path: Path) -> Measurements:
    """Read a `.csv` file with a heading, or a JSON list of objects.

    Each record has a `kind` and its fields (`FIELDS`). `tau` is the mean number of tokens a round,
    the next token included. Seconds are those of one draft and of one forward of a whole batch.

    Raises:
        OptionError: the file is missing or damaged, or a record is.
    """
    records = _records(path)
    found: dict[str, list[dict[str, float | None]]] = {kind: [] for kind in FIELDS}
    for number, record in enumerate(records, start=1):
        kind = record.get("kind")
        if not isinstance(kind, str) or kind not in FIELDS:
            raise OptionError(
                f"record {number} of {path} has the kind {kind!r:.40}",
                hint=nearest(str(kind), FIELDS),
            )
        found[kind].append(
            {name: _value(record, kind, name, number, path) for name in FIELDS[kind]}
        )
    return Measurements(
        data=[(_sure(r["tokens"]), _sure(r["tau"])) for r in found["data"]],
        depth=[(_sure(r["layers"]), _sure(r["tau"])) for r in found["depth"]],
        width={int(_sure(r["width"])): _sure(r["tau"]) for r in found["width"]},
        draft={
            (int(_sure(r["layers"])), _whole(r["width"]), _whole(r["batch"])): _sure(r["seconds"])
            for r in found["draft"]
        },
        verify={
            (int(_sure(r["width"])), int(_sure(r["batch"]))): _sure(r["seconds"])
            for r in found["verify"]
        },
    )


def _records(path: Path) -> list[dict[str, object]]:
    try:
        with open_regular(path) as stream:
            raw = read_at_most(stream, _MOST_BYTES)
    except OSError as error:
        raise OptionError(
            f"{path} cannot be read: {error.strerror}", hint="Give a JSON or CSV file"
        ) from None
    if raw is None:
        raise OptionError(f"{path} has more than {_MOST_BYTES:,} bytes", hint="Give a smaller file")
    try:
        text = raw.decode("utf-8-sig")
        if path.suffix == ".csv":
            return [dict(row) for row in csv.DictReader(io.StringIO(text))]
        parsed = json.loads(text)
    except (ValueError, csv.Error, RecursionError):
        raise OptionError(
            f"{path} is neither JSON nor CSV", hint="Give a JSON list of objects, or a .csv file"
        ) from None
    if not isinstance(parsed, list) or not all(isinstance(one, dict) for one in parsed):
        raise OptionError(
            f"{path} is no list of objects", hint='Give [{"kind": "data", "tokens": ..., ...}, ...]'
        )
    return parsed


def _value(
    record: Mapping[str, object], kind: str, name: str, number: int, path: Path
) -> float | None:
    """Return a number of a record, which is finite and not negative; whole for counts."""
    given = record.get(name)
    if given in (None, "") and name in _FREE.get(kind, ()):
        return None
    try:
        value = math.nan if isinstance(given, bool) else float(given)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    least = 0 if name in ("width", "seconds") else 1
    counts = name in ("layers", "batch", "width")
    good = math.isfinite(value) and value >= least and (name != "seconds" or value > 0)
    if not good or (counts and value != int(value)):
        wanted = "seconds above 0" if name == "seconds" else f"a number of at least {least}"
        raise OptionError(
            f"record {number} of {path}, of kind {kind!r}, has {name} {given!r:.40}",
            hint=f"Give {wanted}",
        )
    return value


def _sure(value: float | None) -> float:
    assert value is not None  # only fields in `_FREE` may be missing
    return value


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
