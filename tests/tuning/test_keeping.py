"""Where a tuning keeps its profile, and what it does not replace."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import outrider
from outrider.cli.app import main
from outrider.core.errors import OptionError
from outrider.strategy import Profile
from outrider.strategy.profile import ProfileArm
from outrider.tuning.settings import TuneSettings
from outrider.tuning.tune import check_place, keep, run_tuning

DONE = Profile(
    key={"target": "x"},
    verdict="don't draft",
    reason="it is slower",
    arms=[ProfileArm(name="none", options={"mode": "none"})],
)
STOPPED = replace(DONE, finished=False, verdict="undecided", arms=[ProfileArm(name="auto")])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own."""
    for place in ("outrider.strategy.profile", "outrider.tuning.tune"):
        monkeypatch.setattr(f"{place}.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def measures(monkeypatch: pytest.MonkeyPatch, found: Profile) -> list[Path]:
    """Let every tuning find this profile; return the folders of their journals."""
    folders: list[Path] = []

    class Measured:
        """A tuning that only writes its journal."""

        def __init__(self, folder: Path, **given: Any) -> None:
            self.folder = folder

        def run(self) -> Profile:
            self.folder.mkdir(parents=True, exist_ok=True)
            folders.append(self.folder)
            return found

    monkeypatch.setattr("outrider.tuning.tune.Tuning", Measured)
    return folders


def test_an_unfinished_profile_does_not_replace_a_finished_one(tmp_path: Path) -> None:
    for out in (None, tmp_path / "mine.json"):
        file = keep(STOPPED, out)
        assert file is not None and Profile.load(file) == STOPPED
        assert keep(DONE, out) == file
        assert keep(STOPPED, out) is None
        assert Profile.load(file) == DONE
    other = replace(STOPPED, key={"target": "y"})  # for another model: the user names the file
    assert keep(other, tmp_path / "mine.json") is not None


@pytest.mark.parametrize("save", [True, False])
def test_the_python_call_keeps_a_finished_profile(
    save: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures(monkeypatch, DONE)
    outrider.tune("tiny", save=save)
    assert DONE.place.is_file() is save
    measures(monkeypatch, STOPPED)
    assert outrider.tune("tiny", save=save) == STOPPED
    assert not DONE.place.is_file() or Profile.load(DONE.place) == DONE


def test_the_command_says_that_a_finished_profile_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measures(monkeypatch, STOPPED)
    DONE.save()
    assert main(["tune"]) == 0
    assert "there is a finished one" in " ".join(capsys.readouterr().err.split())
    assert Profile.load(DONE.place) == DONE


def test_the_journal_is_removed_only_after_the_profile_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = measures(monkeypatch, DONE)

    def fail(profile: Profile) -> None:
        raise OptionError("the disk is full")

    with pytest.raises(OptionError, match="full"):
        run_tuning(TuneSettings(), store=fail)
    assert folders[0].is_dir()
    run_tuning(TuneSettings(), store=_there(folders))
    assert folders[0] == folders[1] and not folders[0].exists()


def _there(folders: list[Path]) -> Callable[[Profile], None]:
    def store(profile: Profile) -> None:
        assert folders[0].is_dir()

    return store


def test_writing_is_tested_before_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = measures(monkeypatch, DONE)

    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("outrider.tuning.tune.tempfile.TemporaryFile", refuse)
    assert main(["tune", "--out", str(tmp_path / "mine.json")]) == 2
    assert "cannot be written: Permission denied" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(OptionError, match="cannot be written: Permission denied"):
        outrider.tune("tiny")
    assert folders == []


def test_a_place_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "no" / "x.json", Path("/dev/null")):
        with pytest.raises(OptionError, match=r"is a folder|no folder|not a plain file"):
            check_place(out)
    check_place(tmp_path / "x.json")
    assert [*tmp_path.iterdir()] == []


def test_a_profile_without_a_speedup_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = replace(DONE, verdict="draft").save(tmp_path / "mine.json")
    assert main(["tune", "--show", str(file)]) == 0
    assert "Draft with none: no speedup is known." in capsys.readouterr().out


@pytest.mark.parametrize("facts", [{"arms": [{"arm": 1}]}, {"arms": 5}, {"seconds": "x"}], ids=str)
def test_facts_that_cannot_be_shown_are_one_line(
    facts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = replace(DONE, facts=facts).save(tmp_path / "mine.json")
    assert main(["tune", "--show", str(file)]) == 2
    assert "holds facts that cannot be shown" in " ".join(capsys.readouterr().err.split())
