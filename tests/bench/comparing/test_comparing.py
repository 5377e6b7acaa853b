"""`outrider bench compare`: pairs, intervals, texts, and what it refuses."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outrider.bench.comparing.compare import compare_runs
from outrider.bench.comparing.files import Results, read_results
from outrider.bench.measure import Run
from outrider.core.errors import OptionError
from tests.cli.conftest import Run as Command
from tests.cli.conftest import run

__all__ = ["run"]


def text(system: str, task: str, seconds: float, **changes: Any) -> Run:
    about: dict[str, Any] = {
        "workload": task.partition("/")[0],
        "repeat": 0,
        "prompt_tokens": 10 + int(task[-1]),
        "token_ids": tuple(range(20)),
        "ttft_seconds": 0.1,
        "repeated": 0,
        "peak_bytes": 0,
        "parts": {"prefill": 0.5},
    }
    return Run(system=system, task=task, seconds=seconds, **about | changes)


TASKS = [f"{workload}/{n}" for workload in ("stories", "copy") for n in range(6)]


def results(speed: float, *, machine: float = 1.0, seed: int = 0, **changes: Any) -> list[Run]:
    noise = np.random.default_rng(seed).normal(0, 0.02, (len(TASKS), 2))
    made: list[Run] = []
    for task, (one, two) in zip(TASKS, noise, strict=True):
        made.append(text("none", task, 4.0 * machine * np.exp(one), **changes))
        made.append(text("auto", task, 4.0 * machine / speed * np.exp(two), **changes))
    return made


def given(runs: Sequence[Run], name: str = "a", **about: Any) -> Results:
    return Results(place=Path(f"{name}.jsonl"), runs=runs, about=about)


def write(file: Path, runs: Sequence[Run], **about: Any) -> Path:
    lines = [{"kind": "run", **one.to_dict()} for one in runs]
    lines.append({"kind": "summary", "settings": {"least_tokens": 8}, **about})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_ratios_are_paired_by_prompt() -> None:
    found = compare_runs(given(results(1.2)), given(results(1.5, seed=1), "b"))
    assert [(row.first, row.workload) for row in found.rows] == [
        (system, workload) for system in ("none", "auto") for workload in ("stories", "copy", "all")
    ]
    plain, auto = found.rows[2], found.rows[5]
    assert auto.speed is not None and plain.speed is not None
    assert auto.speed.mean == pytest.approx(1.5 / 1.2, rel=0.03) and auto.speed.pairs == 12
    assert auto.speed.low < auto.speed.mean < auto.speed.high
    assert auto.verdict == "faster" and plain.verdict == "undecided"
    assert (auto.equal, auto.texts, auto.earliest) == (12, 12, None)
    assert auto.decoding is not None and auto.decoding.mean > auto.speed.mean
    assert found.prompts == 12 and not found.alone and not found.changed
    back = compare_runs(given(results(1.5, seed=1)), given(results(1.2), "b")).rows[5]
    assert back.verdict == "slower" and back.speed is not None
    assert back.speed.mean == pytest.approx(1.0 / auto.speed.mean)


def test_repeats_of_a_prompt_are_one_pair_with_their_median() -> None:
    a = [text("auto", "qa/1", s, repeat=i) for i, s in enumerate((1.0, 2.0, 90.0))]
    b = [text("auto", "qa/1", s, repeat=i) for i, s in enumerate((1.0, 1.0, 1.0))]
    [row] = compare_runs(given(a), given(b, "b")).rows
    assert row.speed is not None and row.speed.mean == pytest.approx(2.0) and row.speed.pairs == 1
    assert row.verdict == "undecided", "one prompt decides nothing"


def test_the_speed_of_the_machine_is_taken_out() -> None:
    row = compare_runs(given(results(1.2)), given(results(1.2, machine=1.4, seed=5), "b")).rows[5]
    assert row.speed is not None and row.speed.high < 0.75
    assert row.beside_undrafted is not None
    assert row.beside_undrafted.mean == pytest.approx(1.0, rel=0.03)
    assert row.verdict == "undecided"


def test_texts_and_short_answers_are_counted() -> None:
    other = [
        text(r.system, r.task, r.seconds, token_ids=(0, 1, 7)) if r.task == "copy/3" else r
        for r in results(1.2)
    ]
    found = compare_runs(given(results(1.2)), given(other, "b"))
    row = found.rows[5]
    assert (row.equal, row.texts, row.earliest) == (11, 12, 2)
    assert found.short == 1 and row.speed is not None and row.speed.pairs == 11


def test_prompts_of_another_length_are_not_paired() -> None:
    other = [
        text(r.system, r.task, r.seconds, prompt_tokens=99) if r.task == "copy/3" else r
        for r in results(1.2)[:-2]
    ]
    found = compare_runs(given(results(1.2)), given(other, "b"))
    assert (found.prompts, found.changed, found.alone) == (10, 1, 1)


def test_two_systems_of_one_file() -> None:
    own = given(results(1.3))
    found = compare_runs(own, own, [("none", "auto")])
    assert {(row.first, row.second) for row in found.rows} == {("none", "auto")}
    assert found.rows[-1].speed is not None
    assert found.rows[-1].speed.mean == pytest.approx(1.3, rel=0.03)
    with pytest.raises(OptionError, match=r"no system 'autp'.*'auto'"):
        compare_runs(own, own, [("autp", "auto")])


def test_runs_without_common_prompts_are_refused() -> None:
    a, b = given(results(1.2)[:4]), given(results(1.2)[6:], "b")
    with pytest.raises(OptionError, match=r"share no prompts: .* are not the same"):
        compare_runs(a, b)
    longer = given([text("auto", t, 1.0, prompt_tokens=77) for t in TASKS], "b")
    with pytest.raises(OptionError, match="have other lengths"):
        compare_runs(a, longer)
    with pytest.raises(OptionError, match=r"has the systems none, auto, and b.jsonl other"):
        compare_runs(a, given([text("other", t, 1.0) for t in TASKS], "b"))


def test_differences_of_the_environment_are_named() -> None:
    a = given(results(1.2), commit="abc", versions={"torch": "2.1"}, settings={"seed": 1})
    b = given(results(1.2), "b", commit="def", versions={"torch": "2.2"}, settings={"seed": 1})
    assert compare_runs(a, b).differences == [
        "commit: 'abc', now 'def'",
        "versions.torch: '2.1', now '2.2'",
    ]


def test_files_and_folders_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", results(1.2), commit="abc", threads=2)
    found = read_results(file)
    assert [r.to_dict() for r in found.runs] == json.loads(
        json.dumps([r.to_dict() for r in results(1.2)])
    )
    assert found.about["commit"] == "abc" and found.systems == ["none", "auto"]
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "settings.json").write_text('{"least_tokens": 3, "seed": 1}')
    fact = {"kind": "fact", "name": "environment", "value": {"commit": "abc", "command": "x"}}
    lines = [json.dumps({"kind": "run", **results(1.0)[0].to_dict()}), json.dumps(fact)]
    (folder / "runs.jsonl").write_text("\n".join(lines) + "\n")
    kept = read_results(folder)
    assert len(kept.runs) == 1 and kept.least_tokens == 3
    assert kept.about == {"settings": {"least_tokens": 3, "seed": 1}, "commit": "abc"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        ("{}\n", "line 1 of .* is no result"),
        ("nonsense", "line 1 of .* is no result"),
        ('{"kind": "run", "system": "a"}\n', "line 1 of .* is no result"),
        ('{"kind": "summary"}\n', "holds no texts, only a summary"),
        ("[1]\n", "line 1 of .* is no result"),
    ],
)
def test_other_files_are_refused_in_one_line(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    file = tmp_path / "a.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(OptionError, match=reason) as found:
        read_results(file)
    assert "\n" not in str(found.value)


DAMAGED: list[dict[str, Any]] = [
    {"seconds": value} for value in (-1.0, float("nan"), float("inf"), "x", None)
]
DAMAGED += [
    {"ttft_seconds": "x"},
    {"token_ids": None},
    {"token_ids": ["a"]},
    {"prompt_tokens": 1.5},
]
DAMAGED += [{"parts": None}, {"parts": {"draft": 0.1}}, {"parts": {"prefill": "x"}}]
DAMAGED += [{"task": [1]}, {"system": 5}, {"workload": None}, {"repeat": True}]


@pytest.mark.parametrize("changes", DAMAGED, ids=str)
def test_texts_with_values_of_another_kind_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    line = {"kind": "run", **text("none", "qa/1", 1.0).to_dict(), **changes}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(OptionError, match=r"line 1 of .* is no result of a bench\. Give the file"):
        read_results(tmp_path / "a.jsonl")


@pytest.mark.parametrize("settings", [None, [1], {"least_tokens": "x"}, {"least_tokens": -1}])
def test_settings_of_another_kind_are_refused(tmp_path: Path, settings: Any) -> None:
    file = write(tmp_path / "a.jsonl", results(1.2), settings=settings)
    with pytest.raises(OptionError, match=r"settings of|least_tokens of .*a.jsonl") as found:
        read_results(file)
    assert found.value.hint
    (tmp_path / "runs.jsonl").touch()
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(OptionError, match=r"settings.json is damaged"):
        read_results(tmp_path)


def test_blank_lines_and_other_separators_are_read(tmp_path: Path) -> None:
    named = [text("none", f"qa\u2028/{n}", 1.0) for n in range(2)]
    lines = [json.dumps({"kind": "run", **one.to_dict()}, ensure_ascii=False) for one in named]
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines) + "\n \n", encoding="utf-8")
    assert [run.task for run in read_results(tmp_path / "a.jsonl").runs] == [
        "qa\u2028/0",
        "qa\u2028/1",
    ]


def test_a_prompt_that_took_longer_than_its_text_has_no_speed_of_decoding() -> None:
    runs = [text("auto", f"qa/{n}", 1.0, parts={"prefill": 2.0}) for n in range(3)]
    [row] = compare_runs(given(runs), given(runs, "b")).rows
    assert row.decoding is None and row.speed is not None and row.speed.mean == 1.0


def test_the_command_prints_a_table_and_remarks(tmp_path: Path, run: Command) -> None:
    a = write(tmp_path / "a.jsonl", results(1.2), commit="abc")
    b = write(tmp_path / "b.jsonl", results(1.5, seed=1), commit="def")
    outcome = run("bench", "compare", a, b)
    assert outcome.code == 0, outcome.err
    shown = outcome.out + outcome.err
    for piece in ("auto", "stories", "faster", "12 of 12", "commit: 'abc', now 'def'"):
        assert piece in shown, piece
    plain = run("bench", "compare", a, b, "--first", "auto", "--json")
    assert plain.code == 0 and [row["verdict"] for row in plain.json["rows"]] == ["faster"] * 3
    for wrong in (["--second", "auto"], ["--first", "autp"]):
        refused = run("bench", "compare", a, b, *wrong)
        assert refused.code == 2 and refused.err.count("\n") <= 2, refused.err
    missing = run("bench", "compare", a, tmp_path / "no.jsonl")
    assert missing.code == 2 and "cannot be read" in missing.err
