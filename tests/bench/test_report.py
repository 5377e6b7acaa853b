"""Plots, the page, the lines: the figures are in them."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from outrider.bench.environment import environment
from outrider.bench.report.report import write_lines, write_report
from outrider.bench.report.summary import summarise
from outrider.bench.run import Bench, Measured
from tests.bench.conftest import small
from tests.bench.rivals import OwnEngine

pytestmark = pytest.mark.usefixtures("unchecked")

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    settings = small(strategies="draft:k=3,fuzzy:max_changed=20%", ignore_eos=True)
    rivals = {"own": OwnEngine(), "absent": OwnEngine(name="absent", install="pip install absent")}
    scratch = tmp_path_factory.mktemp("scratch")
    return Bench(settings=settings, scratch=scratch, rivals=rivals).run()


@pytest.fixture(scope="module")
def summary(measured: Measured) -> dict[str, Any]:
    return environment("outrider bench <tiny>") | summarise(measured)


@pytest.mark.usefixtures("unchecked")
def test_the_summary_is_plain_data(summary: dict[str, Any]) -> None:
    assert json.loads(json.dumps(summary)) == summary


def test_figures_follow_from_the_runs(measured: Measured, summary: dict[str, Any]) -> None:
    drafted = [r for r in measured.runs if r.system == "draft:k=3"]
    figures = summary["workloads"]["all"]["systems"]["draft:k=3"]
    assert figures["tokens"] == sum(r.tokens for r in drafted) == 16
    accepted, forwards = sum(r.accepted for r in drafted), sum(r.forwards for r in drafted)
    assert figures["acceptance_rate"] == accepted / sum(r.drafted for r in drafted)
    assert figures["block_efficiency"] == 16 / forwards
    assert len(figures["acceptance_at"]) == 3
    assert figures["speedup"]["pairs"] == 2
    base = {r.task: r.seconds / r.tokens for r in measured.runs if r.system == "none"}
    ratios = [base[r.task] / (r.seconds / r.tokens) for r in drafted]
    assert figures["speedup"]["min"] == pytest.approx(min(ratios))
    assert sum(figures["time_split"]["share_of_decoding"].values()) == pytest.approx(1)
    plain = summary["workloads"]["all"]["systems"]["none"]
    assert plain["speedup"]["mean"] == plain["decode_speedup"]["high"] == 1.0
    assert plain["block_efficiency"] == 1.0
    fuzzy = summary["workloads"]["all"]["systems"]["fuzzy:max_changed=20%"]
    assert fuzzy["exactness"] == "lossy"


def test_costs_stand_for_each_model(summary: dict[str, Any]) -> None:
    assert set(summary["costs"]) == {"target", "qualifier", "draft"}
    for cost in summary["costs"].values():
        assert set(cost["ms"]) == {"1", "2", "4", "8", "16", "32"}
        assert set(cost["verify_cost"]) == {"2", "4", "8", "16", "32"}
        assert cost["verify_cost"]["8"] == pytest.approx(cost["ms"]["8"] / cost["ms"]["1"])
        assert cost["bandwidth_gb_s"] > 0
        assert cost["threads_by_rows"] in (None, dict.fromkeys(cost["ms"], 1))
        weights = cost["floor_ms"] * cost["bandwidth_gb_s"] * 1e6
        assert weights == pytest.approx(4 * cost["parameters"], rel=0.2)


def test_the_page_holds_plots_and_figures(summary: dict[str, Any], tmp_path: Path) -> None:
    page = write_report(tmp_path / "report", summary)
    names = {file.name for file in page.parent.iterdir()}
    assert names == {
        "acceptance.png",
        "index.html",
        "speedup.png",
        "summary.json",
        "time_split.png",
        "verify_cost.png",
    }
    for file in page.parent.glob("*.png"):
        width, height = struct.unpack(">II", file.read_bytes()[16:24])
        assert width > 500 and height > 200
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/png;base64,') == 4
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing is fetched
    figures = summary["workloads"]["stories"]["systems"]["draft:k=3"]
    assert f"{figures['speedup']['mean']:.2f} [" in text
    assert f"{summary['costs']['target']['ms']['1']:.3f}" in text
    assert "outrider bench &lt;tiny&gt;" in text
    assert summary["versions"]["torch"] in text
    assert summary["device"]["cpu"] in text
    assert "pip install absent" in text
    assert "Against rivals" in text
    assert json.loads((page.parent / "summary.json").read_text()) == summary


def test_a_cost_scaled_run_and_a_broken_promise_stand_at_the_top(
    summary: dict[str, Any], tmp_path: Path
) -> None:
    mismatch = {"system": "draft", "task": "qa/3", "index": 7, "margin": 1.5}
    changed = summary | {"label": "tiny/target cost-scaled to 30M", "mismatches": [mismatch]}
    text = write_report(tmp_path, changed).read_text(encoding="utf-8")
    top = text[: text.index("<h2>")]
    assert "tiny/target cost-scaled to 30M" in top
    assert "draft on qa/3 differs from undrafted at token 7 (margin 1.5)" in top


def test_lines_are_runs_and_then_the_summary(
    measured: Measured, summary: dict[str, Any], tmp_path: Path
) -> None:
    write_lines(tmp_path / "runs.jsonl", measured, summary)
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["run"] * len(measured.runs) + ["summary"]
    assert lines[0]["token_ids"] == list(measured.runs[0].token_ids)


def test_short_answers_are_left_out_of_the_figures(tmp_path: Path) -> None:
    settings = small(workloads="qa", prompts=3, max_new_tokens=64, least_tokens=20)
    found = Bench(settings=settings, scratch=tmp_path, costs=False).run()
    short = {r.task for r in found.runs if r.system == "none" and r.tokens < 20}
    assert short  # the tiny family answers in a few words
    figures = summarise(found)
    assert figures["left_out"]["too_short"] == sorted(short)
    assert figures["workloads"]["qa"]["timed_prompts"] == 3 - len(short)


def test_the_environment_names_what_a_figure_needs() -> None:
    found = environment()
    assert found["versions"]["torch"] and found["versions"]["python"]
    assert found["device"]["logical_cpus"] >= 1
    assert found["command"].startswith("outrider")
