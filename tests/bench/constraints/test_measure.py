"""Schemas with known instances: what is counted, and what the files and tables say."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from outrider.bench.constraints.cases import read_cases, sampled
from outrider.bench.constraints.child import Child
from outrider.bench.constraints.figures import ALL, reasons, summary
from outrider.core.errors import OptionError
from outrider.sampling.constraint import Constraint
from tests.bench.constraints.setups import case, vocabulary

pytest.importorskip("llguidance")
pytest.importorskip("jsonschema_rs")

from outrider.bench.constraints.measure import Meter

NAMED = {
    "type": "object",
    "properties": {"a": {"const": "left"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@cache
def meter() -> Meter:
    return Meter("llguidance", vocabulary())


def test_instances_are_judged_token_by_token() -> None:
    found = meter().measure(case(NAMED, ({"a": "left", "b": 3}, True), ({"a": "up"}, False)))
    assert found["outcome"] == "accepted"
    assert (found["valid"], found["invalid"]) == (1, 1)
    assert (found["over"], found["under"], found["disputed"], found["failed"]) == (0, 0, 0, 0)
    assert sum(found["masks"].values()) == found["tokens"] > found["forced"] >= found["single"] > 0
    assert found["compile_seconds"] > 0 and found["slowest_mask_seconds"] > 0


def test_an_engine_that_admits_too_little_is_noticed() -> None:
    """The order of properties is that of the schema."""
    found = meter().measure(case(NAMED, ({"b": 3, "a": "left"}, True)))
    assert (found["over"], found["under"]) == (1, 0)
    assert found["examples"] == [{"kind": "over", "text": '{"b": 3, "a": "left"}'}]


def test_another_spelling_of_certain_bytes_is_admitted() -> None:
    """After `"N` comes `or`, which the mask allows alone; the text is spelled with `ort`."""
    names = ["North East", "North West", "Northern", "South"]
    found = meter().measure(case({"enum": names}, *((name, True) for name in names)))
    assert (found["over"], found["under"]) == (0, 0)
    assert found["respelled"] > 0


def test_an_engine_that_admits_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Meter("llguidance", vocabulary())
    right = own._compile
    anything = Constraint.json_schema({"type": "object"})
    monkeypatch.setattr(own, "_compile", lambda constraint: right(anything))
    found = own.measure(case(NAMED, ({"a": "up", "b": 3}, False), ({"a": "left", "b": 3}, True)))
    assert (found["over"], found["under"]) == (0, 1)


def test_the_validator_judges_what_has_no_label_and_doubts_wrong_ones() -> None:
    schema = {"type": "integer"}
    found = meter().measure(case(schema, (3, None), ("x", None), ("y", True)))
    assert (found["valid"], found["invalid"]) == (2, 1)
    assert (found["over"], found["under"], found["disputed"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("schema", "outcome", "reason"),
    [
        ({"not": {"type": "string"}}, "refused", "keyword"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 3, "type": "number"}]}, "refused", "oneOf"),
        ({"type": "string", "format": "iri"}, "refused", "format"),
        ({"$ref": "https://example.com/other.json"}, "limit", "limit"),
        ({"minimum": -(2**64)}, "refused", "pattern"),
        (3, "refused", "other"),
    ],
)
def test_refusals_have_a_class(schema: object, outcome: str, reason: str) -> None:
    found = meter().measure(case(schema, ({}, True)))
    assert (found["outcome"], found["reason"]) == (outcome, reason)
    assert "masks" not in found


def write(file: Path, *lines: Mapping[str, Any]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_files_of_both_forms_are_read(tmp_path: Path) -> None:
    test = {"data": {"x": "\ud800"}, "valid": True}
    write(tmp_path / "Some.jsonl", {"id": "s1", "schema": True, "tests": [test]})
    suite = {"description": "d", "schema": {}, "tests": [{"data": 1}]}
    more = {"file": "optional/format/date", **suite}
    write(tmp_path / "draft7.jsonl", {"file": "ref", **suite}, {"file": "ref", **suite}, more)
    write(tmp_path / "remotes.jsonl", {"path": "x", "document": {}})
    found = read_cases(tmp_path)
    assert [one.key for one in found] == [
        ("Some", "s1"),
        ("draft7", "ref: d"),
        ("draft7", "ref: d (2)"),
        ("draft7 optional", "optional/format/date: d"),
    ]
    assert found[0].instances == (('{"x": "\\ud800"}', True),)
    assert found[1].instances == (("1", None),)
    assert json.loads(found[1].schema) == {"$schema": "http://json-schema.org/draft-07/schema#"}
    assert [one.key for one in read_cases(tmp_path, ["Some"])] == [("Some", "s1")]
    with pytest.raises(OptionError, match="no Other"):
        read_cases(tmp_path, ["Other"])
    assert sampled(found, 2, 1) == sampled(found, 2, 1)
    assert len(sampled(found, 2, 1)) == 2 and sampled(found, None, 1) == found


def record(split: str, outcome: str, **more: Any) -> dict[str, Any]:
    names = (
        "valid",
        "invalid",
        "over",
        "under",
        "disputed",
        "failed",
        "tokens",
        "single",
        "respelled",
    )
    own = dict.fromkeys((*names, "forced"), 0) | {"masks": {}, "slowest_mask_seconds": 0.0}
    own |= {"compile_seconds": 0.002} if outcome == "accepted" else {"reason": outcome}
    return {"engine": "e", "split": split, "id": "x", "outcome": outcome} | own | more


def test_figures_are_made_of_records() -> None:
    good = record("A", "accepted", tokens=10, single=2, forced=5, masks={"0": 9, "80": 1})
    rows = summary(
        [
            good | {"slowest_mask_seconds": 0.001},
            record("A", "accepted", over=2, valid=2),
            record("B", "accepted", under=1, invalid=3),
            record("B", "slow"),
        ]
    )
    assert [row["split"] for row in rows] == ["A", "B", ALL]
    last = rows[-1]
    assert (last["schemas"], last["accepted"], last["slow"]) == (4, 3, 1)
    assert (last["declared"], last["true"]) == (0.75, 0.25)
    assert last["compliance"] == pytest.approx(2 / 3)
    assert (last["single"], last["forced"]) == (0.2, 0.5)
    assert last["mask_us"] == {"p50": 1.0, "p99": 1024.0, "p999": 1024.0, "max": 1000.0}
    assert last["compile_ms"]["p50"] == pytest.approx(2.0)
    assert reasons([good, record("B", "slow")]) == {"e": {"slow": 1}}


@pytest.mark.slow
def test_a_process_that_is_too_slow_or_ends_is_replaced() -> None:
    fine = case(NAMED, ({"a": "left", "b": 3}, True))
    long = case({"type": "string"}, ("a b" * 10**6, True))
    with Child("llguidance", vocabulary(), 0.1) as child:
        assert child.measure(long)["outcome"] == "slow"
    with Child("llguidance", vocabulary(), 600.0) as child:
        assert child.measure(fine)["outcome"] == "accepted"
        assert child._process is not None
        child._process.kill()
        child._process.join()
        assert child.measure(fine)["outcome"] == "crash"
        assert child.measure(fine)["outcome"] == "accepted"
