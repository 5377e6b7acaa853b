"""`info`, `calibrate`, `demo` and `train` on a small random family."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from outrider.cli.commands import demo
from outrider.cli.ui.render import Screen
from outrider.engine.load import load
from outrider.models.sources.known import KNOWN
from outrider.strategy.calibration import load_calibrations
from outrider.strategy.catalogue import names
from tests.cli.conftest import Family, Run
from tests.cli.test_wrong_input import unknown_architecture

INFO = {
    "name",
    "path",
    "architecture",
    "model_type",
    "parameters",
    "vocabulary",
    "context",
    "context_reason",
    "end_ids",
    "stored_dtype",
    "stored_dtypes",
    "stored_bytes",
    "runner",
    "reason",
    "dtype",
    "weights_bytes",
    "cache_dtype",
    "cache_measured",
    "cache_bytes_per_1k_tokens",
    "cache_bytes_in_float32_per_1k_tokens",
    "cache_window",
    "cache_bytes_of_window",
    "fingerprint",
    "quality",
    "guidance",
}


def test_info_as_json(family: Family, run: Run) -> None:
    [found] = run("info", family.target, "--dtype", "bfloat16", "--json").json["models"]
    assert set(found) == INFO
    assert found["architecture"] == "LlamaForCausalLM"
    assert (found["vocabulary"], found["context"]) == (288, 256)
    assert found["stored_bytes"] == 4 * found["parameters"]
    assert found["weights_bytes"] == 2 * found["parameters"]
    keys_and_values, layers, heads, width = 2, 2, 2, 8
    numbers = keys_and_values * layers * heads * width
    assert found["cache_dtype"] == "float32", "the cache of a short window"
    assert found["cache_bytes_per_1k_tokens"] == 1024 * numbers * 4
    assert found["cache_bytes_of_window"] == 256 * numbers * 4
    options = ("--dtype", "int8", "--cache-dtype", "int8", "--context-length", "100")
    [found] = run("info", family.target, *options, "--json").json["models"]
    assert found["cache_bytes_of_window"] == 100 * numbers * 36 // 32
    [found] = run("info", family.target, "--dtype", "float64", "--json").json["models"]
    assert (found["cache_dtype"], found["cache_bytes_per_1k_tokens"]) == ("float64", 8192 * numbers)
    assert (found["runner"], found["stored_dtype"]) == ("outrider", "F32")
    methods = found["guidance"]
    assert {"dola", "two-prompt", "classifier-free"} <= set(methods["alone"])
    assert {"contrastive", "caad", "foreal"} <= set(methods["with_others"])
    assert sorted(methods["alone"] + methods["with_others"]) == sorted(names("guidance"))


def test_info_for_people(family: Family, run: Run) -> None:
    shown = run("info", family.target)
    assert (shown.code, shown.err) == (0, "")
    assert "guidance" in shown.out and "dola, two-prompt" in shown.out
    assert "LlamaForCausalLM" in shown.out and "KiB for 1k tokens" in shown.out


def test_info_says_when_nothing_runs_it(tmp_path: Path, run: Run) -> None:
    unknown_architecture(tmp_path / "model")
    [found] = run("info", tmp_path / "model", "--json").json["models"]
    assert found["runner"] is None and found["guidance"] == {}
    assert "mamba9" in found["reason"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    lines: list[dict[str, Any]] = [{"prompt": f"Story {i} begins"} for i in range(3)]
    lines.insert(1, {"prompt": [{"role": "user", "content": "Tell me a story"}], "kind": "chat"})
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def test_calibration_makes_shares_usable(
    family: Family, prompts: Path, tmp_path: Path, run: Run
) -> None:
    file = tmp_path / "calibration.json"
    measured = ["--prompts", prompts, "--limit", "3", "--tokens", "4", "--divergence", "js"]
    outcome = run("calibrate", *family.three, *measured, "--out", file)
    assert outcome.code == 0, outcome.err
    pairs = [(c.key.verifier.name, c.key.proposer.name) for c in load_calibrations(file)]
    assert pairs == [("target", "qualifier"), ("qualifier", "draft"), ("target", "draft")]
    assert load_calibrations(file)[0].positions == 12
    assert all(heading in outcome.out for heading in ("50%", "80%", "90%", "95%"))
    shares = ["--threshold-target", "100%", "--threshold-qualifier", "80%", "--mode", "fuzzy"]
    length = ["--max-new-tokens", "8", "--json", "--calibration", file]
    found = run("generate", "Story 1 begins", *family.three, *shares, *length)
    assert found.code == 0, found.err
    assert found.json["speculation"]["accepted"] > 0


def test_calibration_of_plain_text_lines(family: Family, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("One\n\nTwo\n")
    measured = ["--prompts", file, "--tokens", "2", "--divergence", "tv", "--divergence", "js"]
    outcome = run("calibrate", *family.two, *measured)
    assert outcome.code == 0
    assert "Give --out FILE" in outcome.err
    assert "tv" in outcome.out and "js" in outcome.out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--divergence", "jsd"], "unknown divergence 'jsd'"),
        (["--prompts", "/nowhere.jsonl"], "/nowhere.jsonl cannot be read"),
        (["--out", "/nowhere/file.json"], "there is no folder /nowhere"),
        ([], "ships no prompts"),
    ],
)
def test_faulty_calibration(options: list[str], named: str, family: Family, run: Run) -> None:
    outcome = run("calibrate", *family.two, *options)
    assert outcome.code == 2
    assert named in outcome.error


def test_calibration_needs_two_models(family: Family, prompts: Path, run: Run) -> None:
    outcome = run("calibrate", "--target", family.target, "--prompts", prompts)
    assert outcome.code == 2
    assert "Give --qualifier or --draft" in outcome.error


@pytest.mark.parametrize(
    "line", ["not json", '{"text": "x"}', '{"prompt": 3}', '{"prompt": [3]}', "[]"]
)
def test_faulty_prompt_files(line: str, family: Family, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line)
    outcome = run("calibrate", *family.two, "--prompts", file)
    assert outcome.code == 2
    assert "prompt 2 of" in outcome.error


# -- demo --------------------------------------------------------------------------------------


def test_demo_compares_two_and_three_tiers(
    family: Family, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.cli.commands.demo.REPEATS", 2)
    outcome = run("demo", *family.three, "--tokens", "6", "--dtype", "float64")
    assert outcome.code == 0, outcome.err
    assert "\x1b" not in outcome.out
    rows = [line for line in outcome.out.splitlines() if "identical" in line]
    assert len(rows) == 4
    assert "DIFFERS" not in outcome.out
    assert "tokens per target forward" in outcome.out
    colored = run("demo", *family.three, "--tokens", "6", "--color", "always")
    assert "\x1b[" in colored.out and "qualifier" in colored.err


def test_demo_asks_a_chat_model(family: Family, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outrider.cli.commands.demo.REPEATS", 1)
    outcome = run("demo", "--target", family.target, "--tokens", "6", "--dtype", "float32")
    assert outcome.code == 0, outcome.err
    answers = load(str(family.target), mode="none", dtype="float32", threads=1)
    for question in demo.QUESTIONS:
        asked: Any = [{"role": "user", "content": question}]
        answer = answers.generate(asked, max_new_tokens=6, temperature=0.0).text
        assert f"> {question}\n{answer}\n" in outcome.out
    assert len([line for line in outcome.out.splitlines() if "identical" in line]) == 2
    figures = [line for line in outcome.err.splitlines() if "; undrafted " in line]
    assert len(figures) == 3 and all(line.startswith("6 tokens, ") for line in figures)


def test_demo_takes_the_real_model_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [known] = [known for known in KNOWN if known.name == demo.MODEL]
    apart = [place for place in sys.path if not (Path(place) / known.module).exists()]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(sys, "path", apart)
    assert demo._tiers(demo.DemoTiers(), Screen()).target == "tiny"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("smollm2 is not installed, so the included family tiny is used")
    assert line.endswith(known.install)
    (tmp_path / known.module).mkdir()
    (tmp_path / known.module / known.file).touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *apart])
    assert demo._tiers(demo.DemoTiers(), Screen()).target == "smollm2"
    assert demo._tiers(demo.DemoTiers(target="x"), Screen()).target == "x"
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_demo_of_a_real_model(smollm2: Path, run: Run) -> None:
    outcome = run("demo")
    assert outcome.code == 0
    assert all(question in outcome.out for question in demo.QUESTIONS)
    assert all(name in outcome.out for name in ("target alone", "default", "Anna walked"))
    assert "DIFFERS" not in outcome.out


def test_training_needs_its_file(tmp_path: Path, run: Run) -> None:
    outcome = run("train", "family", tmp_path / "none.toml")
    assert outcome.code == 2
    assert "none.toml" in outcome.error
