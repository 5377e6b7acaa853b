"""`outrider bench constraints`: what it prints, writes and continues."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytest.importorskip("llguidance")
pytest.importorskip("jsonschema_rs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "schemas"
    place.mkdir()
    line = {"id": "a", "schema": {"enum": ["x", 1]}, "tests": [{"data": "x", "valid": True}]}
    other = line | {"id": "b", "schema": {"not": {}}}
    (place / "Some.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(other)}\n")
    return place


def test_a_line_for_each_schema_and_what_is_there_is_not_measured_again(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "masks.jsonl"
    outcome = run("bench", "constraints", str(folder), "--out", str(out), "--json")
    assert outcome.code == 0, outcome.err
    [row] = outcome.json["rows"]
    assert (row["schemas"], row["accepted"], row["over"], row["under"]) == (2, 1, 0, 0)
    assert outcome.json["refusals"] == {"llguidance": {"keyword": 1}}
    first, second = out.read_text().splitlines()
    marked = json.dumps(json.loads(first) | {"tokens": 777, "single": 0})
    out.write_text(f"{marked}\n{second}\n" + second[:20])
    outcome = run("bench", "constraints", str(folder), "--out", str(out), "--resume")
    assert outcome.code == 0, outcome.err
    assert all(word in outcome.out for word in ("777", "declared", "compliance", "compile p50"))
    assert out.read_text() == f"{marked}\n{second}\n"


def test_texts_of_a_model_are_validated(folder: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "texts.jsonl"
    words = ("--texts", "9", "--strategies", "none", "--max-new-tokens", "8", "--threads", "1")
    outcome = run("bench", "constraints", str(folder), *words, "--out", str(out), "--json")
    assert outcome.code == 0, outcome.err
    own, free = outcome.json["rows"]
    assert (own["strategy"], own["texts"], own["finished"], own["valid"]) == ("none", 1, 1, 1)
    assert (free["strategy"], free["texts"]) == ("free", 1)
    before = out.read_text()
    outcome = run("bench", "constraints", str(folder), *words, "--out", str(out), "--resume")
    assert outcome.code == 0, outcome.err
    assert "tokens/s" in outcome.out and out.read_text() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engines", "outlines"], "unknown engine 'outlines'"),
        (["--resume"], "--resume is given without --out"),
        (["--splits", "None"], "there is no None.jsonl"),
        (["--texts", "2", "--strategies", "sufix"], "unknown strategy 'sufix'"),
    ],
)
def test_wrong_options(words: list[str], message: str, folder: Path, run: Run) -> None:
    outcome = run("bench", "constraints", str(folder), *words)
    assert outcome.code == 2
    assert outcome.error.startswith(message)
