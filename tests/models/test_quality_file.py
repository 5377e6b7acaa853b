"""The cached result of the quality check: a damaged file counts as no file."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from outrider.models.cpu.formats import FORMATS
from outrider.models.quality import Quality, _file, known_quality

INT8 = FORMATS["int8"]

GOOD = {"loss": 2.0, "kl": 0.001, "agreement": 0.99, "tokens": 256}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path))
    return SimpleNamespace(fingerprint="abc")


def test_a_good_file_is_read(checkpoint: Any) -> None:
    _file(checkpoint, INT8).write_text(json.dumps(GOOD))
    assert known_quality(checkpoint, INT8) == Quality(**GOOD)


BROKEN = {
    "empty": "",
    "cut": json.dumps(GOOD)[:-5],
    "a list": "[1, 2]",
    "a number": "3",
    "null": "null",
    "nested": "[" * 100_000,
    "a field too many": json.dumps(GOOD | {"more": 1}),
    "a field too few": json.dumps({"loss": 1.0}),
    **{
        f"{name} is {value!r}": json.dumps(GOOD | {name: value})
        for name in GOOD
        for value in ("2", None, True, [], {}, float("nan"), float("inf"), 10**400)
    },
    "tokens is 0.5": json.dumps(GOOD | {"tokens": 0.5}),
    "agreement is 2": json.dumps(GOOD | {"agreement": 2}),
}


@pytest.mark.parametrize("case", [case for case in BROKEN if case != f"tokens is {10**400!r}"])
def test_a_damaged_file_is_ignored(case: str, checkpoint: Any) -> None:
    _file(checkpoint, INT8).write_text(BROKEN[case])
    assert known_quality(checkpoint, INT8) is None


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", bytes(100), b"\x80{}"])
def test_bytes_that_are_no_text_are_ignored(data: bytes, checkpoint: Any) -> None:
    _file(checkpoint, INT8).write_bytes(data)
    assert known_quality(checkpoint, INT8) is None


def test_a_file_that_others_can_write_is_ignored(checkpoint: Any) -> None:
    _file(checkpoint, INT8).write_text(json.dumps(GOOD))
    _file(checkpoint, INT8).chmod(0o666)
    assert known_quality(checkpoint, INT8) is None


def test_a_folder_in_its_place_is_ignored(checkpoint: Any) -> None:
    _file(checkpoint, INT8).mkdir()
    assert known_quality(checkpoint, INT8) is None
