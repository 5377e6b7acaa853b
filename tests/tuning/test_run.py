"""A whole tuning of the shipped models: stages, journal, interruption, profile and command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import outrider
from outrider.bench.journal import Journal
from outrider.bench.models import OpenModels
from outrider.cli.app import main
from outrider.core.errors import OptionError, StrategyError
from outrider.engine.options import Models, Runtime
from outrider.engine.profiles.choosing import profile_key
from outrider.strategy import Profile
from outrider.tuning import report
from outrider.tuning.run import Tuning
from outrider.tuning.settings import TuneSettings
from outrider.tuning.space import plain_arm
from outrider.tuning.texts import Texts
from outrider.tuning.verdict import Answer
from tests.tuning.conftest import SAMPLING, tuning

Finished = tuple[Profile, Tuning]


def test_a_tuning_ends_with_a_profile(finished: Finished) -> None:
    profile, own = finished
    assert profile.finished
    assert profile.weak  # eight prompts
    assert profile.verdict in [str(answer) for answer in Answer]
    assert (profile.prompts["search"], profile.prompts["verdict"]) == (7, 1)
    assert own.predictions, "nothing was replayed"
    rows = {row["arm"]: row for row in profile.facts["arms"]}
    assert rows["auto"]["raced"]["pairs"] >= 1
    assert sum(row["verdict"] is not None for row in rows.values()) == 2
    assert profile.command == "outrider tune --target tiny"
    models = Models(target="tiny", qualifier="none", draft="none")
    assert profile.key == profile_key(models, Runtime(dtype="float32"))  # that of `load`


def test_a_finished_tuning_is_not_measured_again(
    finished: Finished, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (work / "runs.jsonl").read_text().count('"kind": "run"')

    def refuse(*given: object) -> None:
        raise AssertionError("a text was written again")

    monkeypatch.setattr("outrider.bench.measure.StrategySystem.write", refuse)
    again = tuning(work, command="outrider tune --target tiny").run()
    assert (work / "runs.jsonl").read_text().count('"kind": "run"') == lines
    assert (again.verdict, again.reason) == (finished[0].verdict, finished[0].reason)


def test_other_settings_do_not_continue_it(finished: Finished, work: Path) -> None:
    own = tuning(work)
    own.settings = replace(own.settings, arms=("lookup:k=3",))
    with pytest.raises(OptionError, match="other settings"):
        own.run()


def test_ctrl_c_keeps_the_best_so_far(tmp_path: Path) -> None:
    told: list[str] = []

    def progress(done: int, total: int, what: str) -> None:
        told.append(what)
        if what == "none" and "auto" in told:  # the second prompt of the race, or the verdict
            raise KeyboardInterrupt

    profile = tuning(tmp_path, progress=progress).run()
    assert not profile.finished
    assert profile.verdict == "undecided"
    assert profile.load_options() == {}
    assert "(unfinished)" in report.sentence(profile)
    done = (tmp_path / "runs.jsonl").read_text().count('"kind": "run"')
    assert tuning(tmp_path).run().finished
    assert (tmp_path / "runs.jsonl").read_text().count('"kind": "run"') > done


def test_ctrl_c_before_the_race_leaves_nothing_but_the_journal(tmp_path: Path) -> None:
    def progress(done: int, total: int, what: str) -> None:
        if what == "screening":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning(tmp_path, progress=progress).run()
    assert (tmp_path / "runs.jsonl").exists()


def test_a_busy_machine_is_refused(tmp_path: Path) -> None:
    own = tuning(tmp_path, measure=lambda *given: {1: 2.0, 2: 1.0, 4: 1.5})
    own.settings = replace(own.settings, force=False)
    with pytest.raises(OptionError, match=r"other programs disturb .* Stop them, or give --force"):
        own.run()
    again = tuning(tmp_path, progress=_until_recording)
    again.settings = replace(again.settings, force=False)
    with pytest.raises(KeyboardInterrupt):  # the machine is idle now: it goes on
        again.run()


def _until_recording(done: int, total: int, what: str) -> None:
    if what == "none":
        raise KeyboardInterrupt


def test_a_text_that_differs_stops_the_tuning(
    finished: Finished, work: Path, opened: OpenModels
) -> None:
    """An exact arm that writes another text: its speed means nothing."""
    settings = json.loads((work / "settings.json").read_text())
    journal = Journal(settings, work)
    base = next(r for r in journal.runs.values() if r.system == "none" and r.repeat == 0)
    wrong = [*base.token_ids]
    wrong[3] = (int(wrong[3]) + 1) % 100
    lie = replace(base, system="lie", token_ids=wrong)
    journal.runs[lie.key] = lie
    own = tuning(work)
    own.open()
    assert own.parts is not None
    place = next(p for p in (*own.parts.search, *own.parts.verdict) if p.task == base.task)
    texts = Texts(opened=opened, sampling=SAMPLING, journal=journal, plain=plain_arm(), arms={})
    texts._promises["lie"] = outrider.Strategy(target=opened.models["target"]).exactness
    with pytest.raises(StrategyError, match=r"lie on .* differs from undrafted at token 3"):
        texts.write("lie", place)


def test_the_report_names_the_answer(finished: Finished) -> None:
    profile, _ = finished
    assert report.sentence(profile).endswith("(weak: fewer than 24 prompts).")
    rows = report.table(profile)
    assert {"arm", "predicted", "raced", "verdict", "tokens/round", "acceptance"} == {*rows[0]}
    assert len(report.bars(profile)) > 2
    assert any("choose, 1 judge" in line for line in report.notes(profile))
    assert any(
        line.startswith("draft:") or "no draft model" in line or "model: " in line
        for line in report.skipped(profile)
    )


def test_the_command_shows_a_profile(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = finished[0].save(tmp_path / "mine.json")
    assert main(["tune", "--show", str(file), "--explain"]) == 0
    shown = capsys.readouterr().out
    assert report.sentence(finished[0]) in shown
    assert "left out: rest: it retrieves from a datastore" in shown
    assert main(["tune", "--show", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == finished[0].verdict


WRONG = {
    ("--budget", "soon"): "budget is 'soon'. Give a time such as 90s, 10m or 1h",
    ("--prompts", "nowhere.jsonl"): "there is no file of prompts at nowhere.jsonl",
    ("--out", "nowhere/x.json"): "there is no folder nowhere",
    ("--arms", "lokup"): "unknown strategy 'lokup'",
    ("--show", "nowhere.json"): "profile nowhere.json cannot be read",
}


@pytest.mark.parametrize("words", WRONG, ids=lambda words: words[0])
def test_wrong_options_are_named_in_one_line(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *words]) == 2
    error = capsys.readouterr().err
    assert WRONG[words] in " ".join(error.split())


@pytest.mark.slow
def test_tune_then_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command from the options to a file, and the file in another command."""
    monkeypatch.setattr("outrider.tuning.run.measure_facts", _facts)
    work, file = tmp_path / "work", tmp_path / "tiny.json"
    models = ["--target", "tiny", "--draft", "none", "--qualifier", "none", "--dtype", "float32"]
    texts = ["--limit", "1", "--max-new-tokens", "4", "--budget", "2s", "--force"]
    assert main(["tune", *models, *texts, "--work", str(work), "--out", str(file)]) == 0
    assert "race: none, " in capsys.readouterr().err
    assert Profile.load(file).finished
    words = ["generate", "Once", "--raw", *models, "--max-new-tokens", "4"]
    assert main([*words, "--profile", "none"]) == 0
    alone = capsys.readouterr().out
    assert main([*words, "--profile", str(file)]) == 0
    assert capsys.readouterr().out == alone


def _facts(model: object, limit: float, measure: object) -> object:
    from outrider.tuning.facts import Facts

    seconds = {n: 1e-3 * (1.0 + 0.05 * n) for n in (1, 2, 4, 8, 16, 32)}
    return Facts(seconds=seconds, overhead=1e-4, load=1.0, cores=2)


def test_the_python_call_checks_its_options(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="budget is -1"):
        outrider.tune("tiny", budget=-1.0)
    with pytest.raises(OptionError, match="unknown strategy 'lokup'"):
        TuneSettings(arms=("lokup",))
