"""Texts for schemas: what is asked, written, validated and continued."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.bench.constraints.figures import text_summary
from outrider.bench.models import OpenModels, find_tiers, open_models
from outrider.bench.settings import Models
from outrider.bench.strategies import parse_strategies
from outrider.core.errors import OptionError
from tests.bench.constraints.setups import case

pytest.importorskip("llguidance")
pytest.importorskip("jsonschema_rs")

from outrider.bench.constraints.tasks import chosen
from outrider.bench.constraints.texts import FREE, TextSettings, is_valid, write_texts

MODELS = Models(target="tiny", qualifier="none", draft="none", threads=1)
ANSWER = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}, "count": {"type": "integer", "maximum": 9}},
    "required": ["answer"],
    "additionalProperties": False,
}
CASES = [
    case(ANSWER, name="answer", split="A"),
    case({"not": {}}, name="refused", split="A"),
    case({"enum": ["left", "right"]}, name="side", split="B"),
    case({"enum": ["x" * 4000]}, name="long", split="B"),
    case({"type": "array", "items": {"type": "string"}, "minItems": 90}, name="endless", split="C"),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenModels]:
    yield open_models(MODELS, find_tiers(MODELS, tmp_path_factory.mktemp("scaled")))


def settings(**more: Any) -> TextSettings:
    given: dict[str, Any] = {"strategies": parse_strategies("none,suffix"), "count": 9}
    return TextSettings(models=MODELS, **{**given, "max_new_tokens": 24, **more})


def test_schemas_are_taken_from_all_splits_in_turn(opened: OpenModels) -> None:
    generator = opened.build(parse_strategies("none")[0])
    generator.tokenizer = opened.tokenizer

    def names(count: int, prompt_tokens: int = 600) -> list[str]:
        tasks = chosen(CASES, generator, count=count, prompt_tokens=prompt_tokens, seed=0)
        return [task.case.id for task in tasks]

    assert names(9) == ["answer", "side", "endless"]
    assert names(2) == ["answer", "side"]
    assert names(9, 1) == []
    first = next(chosen(CASES, generator, count=1, prompt_tokens=600, seed=0))
    assert opened.tokenizer is not None
    assert json.dumps(ANSWER) in opened.tokenizer.decode(first.prompt.token_ids)


def test_texts_are_valid_and_those_that_are_there_are_kept(
    opened: OpenModels, tmp_path: Path
) -> None:
    out = tmp_path / "texts.jsonl"
    found = write_texts(CASES, opened, settings(), out=out)
    texts = {(r["strategy"], r["id"]): r for r in found}
    assert {name for name, _ in texts} == {"none", "suffix", FREE}
    assert {id for _, id in texts} == {"answer", "side", "endless"}
    for (name, id), record in texts.items():
        if name == FREE:
            continue
        assert record["finished"] is record["valid"] is (id != "endless")
        assert record["text"] == texts["none", id]["text"]
        assert 0 < record["forwards"] <= record["tokens"]
    assert texts["none", "answer"]["forced"] > 0 == texts[FREE, "answer"]["forced"]

    lines = out.read_text().splitlines()
    assert [json.loads(line) for line in lines] == found
    out.write_text("\n".join(lines[:4]) + "\n" + lines[4][:30])
    again = write_texts(CASES, opened, settings(batch=1), out=out, resume=True)
    assert out.read_text().splitlines()[:4] == lines[:4]
    same = ("strategy", "id", "text", "valid", "finished", "tokens")
    assert [[r[n] for n in same] for r in again] == [[r[n] for n in same] for r in found]
    with pytest.raises(OptionError, match="has texts of other settings"):
        write_texts(CASES, opened, settings(max_new_tokens=5), out=out, resume=True)


def test_texts_written_together_are_those_written_alone(opened: OpenModels) -> None:
    alone = write_texts(CASES, opened, settings(strategies=parse_strategies("none")))
    together = write_texts(CASES, opened, settings(strategies=parse_strategies("none"), batch=3))
    texts = {(r["strategy"], r["id"]): r["text"] for r in alone}
    assert {(r["strategy"], r["id"]): r["text"] for r in together} == texts


def test_without_a_schema_there_is_an_error(opened: OpenModels) -> None:
    with pytest.raises(OptionError, match="no schema is left"):
        write_texts(CASES[1:2], opened, settings(strategies=parse_strategies("none")))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('"left"', True),
        ('Here it is:\n```json\n"left"\n```\nGood?', True),
        ('```\n"left"', True),
        ('"up"', False),
        ('"left" or "right"', False),
        ("", False),
        ("[" * 100_000, False),
    ],
)
def test_a_block_between_fences_counts(text: str, valid: bool) -> None:
    assert is_valid('{"enum": ["left", "right"]}', text) is valid


def test_figures_of_texts() -> None:
    def record(strategy: str, id: str, **more: object) -> dict[str, object]:
        own = {"split": id, "tokens": 10, "seconds": 2.0, "forwards": 5, "forced": 4, "text": id}
        return {"strategy": strategy, "id": id, **own, "finished": True, "valid": True, **more}

    rows = text_summary(
        [
            record("none", "a"),
            record("none", "b", finished=False, valid=False, text="cut"),
            record("auto", "a", seconds=1.0),
            record("auto", "b", finished=False, valid=True, seconds=1.0),
        ]
    )
    assert [(row["strategy"], row["split"]) for row in rows] == [
        *(("none", name) for name in ("a", "b", "all")),
        *(("auto", name) for name in ("a", "b", "all")),
    ]
    plain, auto = rows[2], rows[5]
    assert (plain["texts"], plain["finished"], plain["valid"], plain["compliance"]) == (2, 1, 1, 1)
    assert (plain["finished_share"], plain["valid_share"], plain["forced"]) == (0.5, 0.5, 0.4)
    assert (plain["tokens_per_second"], auto["tokens_per_second"]) == (5.0, 10.0)
    assert (plain["same"], auto["same"]) == (2, 1)
    assert rows[1]["compliance"] is None
