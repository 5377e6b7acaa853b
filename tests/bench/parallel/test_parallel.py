"""`outrider bench parallel`: records, summaries, and the command."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from outrider.bench.parallel.figures import interval, summary
from outrider.bench.parallel.methods import BASE, parse_methods
from outrider.cli.app import app
from outrider.core.errors import OptionError
from outrider.diffusion.rules.threshold import Threshold


def record(method: str, item: str, score: float, rounds: int) -> dict[str, object]:
    return {
        "task": "copy",
        "item": item,
        "method": method,
        "score": score,
        "rounds": rounds,
        "tokens": 12,
        "forwards": rounds,
        "rows": 10 * rounds,
        "seconds": 0.5 * rounds,
    }


def test_methods_begin_with_one_token_a_round() -> None:
    found = parse_methods("threshold(threshold=0.7),low-confidence(steps=4)")
    assert next(one.name for one in found) == BASE and len(found) == 3
    assert found[1].rule == Threshold(threshold=0.7)
    for wrong in ("threshold(0.7)", "nothing", "threshold(factor)"):
        with pytest.raises(OptionError):
            parse_methods(wrong)


def test_rows_are_paired_with_one_token_a_round() -> None:
    rows = summary(
        [
            record(BASE, "0", 1.0, 12),
            record("threshold", "0", 1.0, 4),
            record(BASE, "1", 1.0, 12),
            record("threshold", "1", 0.0, 3),
        ]
    )
    base, other = rows
    assert (base["score"], base["score_change"], base["tokens_per_round"]) == (1.0, 0.0, 1.0)
    assert other["score"] == 0.5 and other["score_change"] == -0.5
    assert other["tokens_per_round"] == pytest.approx(24 / 7)
    assert other["rounds_ratio"]["mean"] == pytest.approx((3 * 4) ** 0.5)
    assert other["seconds_ratio"]["pairs"] == 2


def test_intervals_hold_the_mean() -> None:
    low, high = interval([0.0, 1.0, 0.0, 1.0, 1.0])
    assert 0 <= low < 0.6 < high <= 1
    assert interval([0.5, 0.5]) == (0.5, 0.5)


def test_closed_forms_need_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from outrider.bench.parallel import ideal

    whole = ideal.ideal_rows
    monkeypatch.setattr(ideal, "ideal_rows", lambda seed: whole((2,), draws=4, seed=seed))
    result = CliRunner().invoke(app, ["bench", "parallel", "--ideal", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["form"] for row in rows] == ["copy", "shuffle", "replace"]


def test_answers_are_written_scored_and_continued(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    asked = ["bench", "parallel", "--tasks", "copy", "--items", "2", "--methods", "threshold"]
    asked += ["--out", str(out), "--json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["method"] for line in lines] == [BASE, "threshold"] * 2
    assert all(line["rounds"] <= line["tokens"] for line in lines)
    kept = out.read_text().splitlines()[:3]
    out.write_text("\n".join(kept) + "\n")
    again = CliRunner().invoke(app, [*asked, "--resume"])
    assert again.exit_code == 0, again.output
    assert out.read_text().splitlines()[:3] == kept
    rows, before = json.loads(again.stdout)["rows"], json.loads(result.stdout)["rows"]
    assert [row["score"] for row in rows] == [row["score"] for row in before]


@pytest.mark.parametrize("wrong", [["--resume"], ["--tasks", "copi"], ["--methods", "nothing"]])
def test_wrong_options_are_refused(wrong: list[str]) -> None:
    assert CliRunner().invoke(app, ["bench", "parallel", *wrong]).exit_code != 0
