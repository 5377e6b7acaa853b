"""`outrider bench`: what it prints, what it keeps, and what it refuses before any work."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Outcome, Run

SHORT = ["--prompts", "1", "--repeats", "1", "--max-new-tokens", "8"]
ONE = ["--dtype", "float32", "--threads", "1"]
FAST = [*SHORT, *ONE, "--workloads", "stories", "--strategies", "draft:k=3"]


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_speed_prints_one_object(run: Run) -> None:
    outcome = run("bench", "speed", *FAST, "--json")
    assert outcome.code == 0, outcome.err
    summary = outcome.json
    assert summary["kind"] == "summary"
    systems = summary["workloads"]["stories"]["systems"]
    assert set(systems) == {"none", "draft:k=3"}
    for name, figures in systems.items():
        assert figures["tokens"] == 8
        for rate in ("tokens_per_second", "ttft_ms", "tpot_ms"):
            assert figures[rate]["min"] <= figures[rate]["median"] <= figures[rate]["max"]
        assert set(figures["speedup"]) >= {"mean", "low", "high", "median"}
        assert (figures["drafted"] > 0) == (name != "none")
    assert summary["costs"] == {}
    assert summary["settings"]["sampling"]["max_new_tokens"] == 8


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(["bench"], marks=pytest.mark.slow),
        ["bench", "tiny"],
        pytest.param(["bench", "--target", "tiny"], marks=pytest.mark.slow),
    ],
)
def test_the_full_bench_is_meant_when_no_command_is_named(start: list[str], run: Run) -> None:
    outcome = run(*start, *FAST, "--json")
    assert outcome.code == 0, outcome.err
    kinds = [line["kind"] for line in lines(outcome)]
    assert kinds == ["run", "run", "summary"]
    assert set(lines(outcome)[-1]["costs"]) == {"target", "qualifier", "draft"}


def test_tables_are_for_people(run: Run) -> None:
    outcome = run("bench", *FAST, "--cost-scale", "x2")
    assert outcome.code == 0, outcome.err
    for heading in ("stories (1 prompts)", "Latency", "by position", "One forward over n rows"):
        assert heading in outcome.out, heading
    assert "draft:k=3" in outcome.out
    assert "Every figure below: tiny/target cost-scaled to x2." in outcome.err
    assert "\N{HORIZONTAL ELLIPSIS}" not in outcome.out  # nothing is cut


def test_verify_cost_prints_one_object(run: Run) -> None:
    outcome = run("bench", "verify-cost", "tiny", *ONE, "--repeats", "2", "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert found["model"] == "tiny/target"
    assert (found["parameters"], found["dtype"], found["threads"]) == (5475584, "float32", 1)
    assert set(found["ms"]) == {"1", "2", "4", "8", "16", "32"}
    assert set(found["verify_cost"]) == {"2", "4", "8", "16", "32"}
    assert min(found["floor_ms"], found["bandwidth_gb_s"], *found["ms"].values()) > 0
    assert found["cost_scale"] is None


@pytest.mark.slow
def test_verify_cost_deepens_to_at_least_the_size_asked_for(run: Run) -> None:
    outcome = run(
        "bench", "verify-cost", "tiny", *ONE, "--cost-scale", "8M", "--repeats", "1", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert 8e6 <= outcome.json["parameters"] < 10e6
    assert "cost-scaled to 8M" in outcome.json["cost_scale"]
    table = run("bench", "verify-cost", *ONE, "--cost-scale", "8M", "--repeats", "1")
    assert "cost-scaled to 8M" in table.err


def test_runs_are_kept_and_taken_up(run: Run, tmp_path: Path) -> None:
    folder, file = tmp_path / "out", tmp_path / "lines.jsonl"
    first = run("bench", "speed", *FAST, "--out", folder, "--json")
    again = run("bench", "speed", *FAST, "--out", folder, "--json")
    assert first.json["workloads"] == again.json["workloads"]  # timings and all
    other = run("bench", "speed", *FAST, "--out", folder, "--seed", "7")
    assert other.code == 2
    assert "sampling.seed: 1, now 7" in other.error
    assert run("bench", "speed", *FAST, "--out", file).code == 0
    written = [json.loads(line)["kind"] for line in file.read_text().splitlines()]
    assert written == ["run", "run", "summary"]


def test_text_that_should_be_equal_and_is_not_is_loud(run: Run, tmp_path: Path) -> None:
    run("bench", "speed", *FAST, "--out", tmp_path)
    file = tmp_path / "runs.jsonl"
    changed = [json.loads(line) for line in file.read_text().splitlines()]
    changed[-1]["token_ids"][4] += 1
    file.write_text("".join(json.dumps(line) + "\n" for line in changed))
    outcome = run("bench", "speed", *FAST, "--out", tmp_path, "--json")
    assert outcome.code == 1
    assert "MISMATCH: draft:k=3 on stories/1 differs from undrafted at token 4" in outcome.err
    assert outcome.json["mismatches"][0]["index"] == 4


@pytest.mark.slow
def test_a_report_is_written(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    outcome = run("bench", *FAST, "--report", tmp_path / "report")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "report" / "index.html").stat().st_size > 50_000
    assert "report: " in outcome.err


def test_a_config_file_does_as_well(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "bench.toml"
    file.write_text(
        'dtype = "float32"\nthreads = 1\nprompts = 1\nrepeats = 1\nmax_new_tokens = 8\n'
        'workloads = ["stories"]\nignore_eos = true\n[strategies.short]\nrecipe = "draft"\nk = 2\n'
    )
    outcome = run("bench", "speed", "--config", file, "--max-new-tokens", "6", "--json")
    assert outcome.code == 0, outcome.err
    systems = outcome.json["workloads"]["stories"]["systems"]
    assert {name: f["tokens"] for name, f in systems.items()} == {"none": 6, "short": 6}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["speed", "--strategies", "draught"], "Did you mean 'draft'?"),
        (["speed", "--strategies", "draft:kk=3"], "unknown option of strategy 'draft': 'kk'"),
        (["speed", "--strategies", "pyramid:mode=exakt"], "strategy 'pyramid:mode=exakt'"),
        (["speed", "--workloads", "storys"], "Did you mean 'stories'?"),
        (["speed", "--workloads", "missing.jsonl"], "there is no file of prompts"),
        (["speed", "--config", "missing.toml"], "missing.toml cannot be read"),
        (["speed", "--temperature", "-1"], "temperature is -1"),
        (["speed", "--prompts", "0"], "--prompts"),
        (["speed", "--dtype", "int9"], "unknown dtype 'int9'"),
        (["tiny", "--target", "tiny"], "MODEL is 'tiny' and --target is 'tiny'"),
        (["./nowhere", "--strategies", "none"], "nowhere"),
        (["--cost-scale", "many"], "many"),
        (["--cost-scale", "1M"], "1M"),
        (["--out", "no/where/lines.jsonl"], "there is no folder no/where"),
        (["--rival", "lama.cpp"], "unknown rival 'lama.cpp'"),
        (["verify-cost", "./nowhere"], "nowhere"),
        (["verify-cost", "tiny", "--dtype", "int9"], "unknown dtype 'int9'"),
        (["sped"], "sped"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    arguments: list[str], expected: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("bench", *arguments)
    assert outcome.code == 2
    assert expected in outcome.error
    assert outcome.out == ""


def test_what_is_not_installed_is_named_with_its_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    outcome = run("bench", *FAST, "--report", tmp_path)
    assert outcome.code == 2
    assert outcome.error.endswith(
        'matplotlib is not installed. Install it with: pip install "outrider[bench]"'
    )
    monkeypatch.setitem(sys.modules, "zstandard", None)
    packed = tmp_path / "q.jsonl.zst"
    packed.write_bytes(b"")
    outcome = run("bench", "speed", "--workloads", packed)
    assert outcome.code == 2
    assert (
        'zstandard is not installed. Install it with: pip install "outrider[bench]"'
        in outcome.error
    )


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    arguments = [*ONE, "--workloads", "stories", "--repeats", "200", "--out", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "outrider", "bench", "speed", "--strategies", "none", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    runs = folder / "runs.jsonl"
    deadline = time.monotonic() + 60
    while not (runs.exists() and runs.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "stopped; the same command continues the run" in err
    assert "Traceback" not in err
    assert all(json.loads(line)["kind"] == "run" for line in runs.read_text().splitlines())
