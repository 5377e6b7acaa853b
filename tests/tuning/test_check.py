"""`outrider tune --check`: is a profile still true?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outrider.bench.settings import Models
from outrider.cli.app import main
from outrider.core.errors import OptionError
from outrider.strategy import Profile
from outrider.strategy.profile import ProfileArm
from outrider.tuning.intervals import Speedup
from outrider.tuning.settings import TuneSettings
from outrider.tuning.tune import check

SETTINGS = TuneSettings(
    models=Models(target="tiny", qualifier="none", draft="none", dtype="float32"),
    prompts=1,
    sampling={"max_new_tokens": 4},
)


def profile(verdict: str, **more: Any) -> Profile:
    arm = ProfileArm(name="lookup:k=3", options={"drafter": "lookup"})
    given: dict[str, Any] = {"arms": [arm], "facts": {"arms": [{"arm": "lookup:k=3"}]}}
    return Profile(key={}, verdict=verdict, reason="", **{**given, **more})


@pytest.fixture
def same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The empty key of these profiles fits."""
    monkeypatch.setattr("outrider.tuning.tune.key_of", lambda opened: {})


@dataclass
class Found:
    """What a trial has found."""

    speedup: Speedup | None


class Fixed:
    """A trial with a known result."""

    speedup = Speedup(mean=1.0, low=0.9, high=1.1, pairs=10)

    def __init__(self, **given: Any) -> None:
        assert given["winner"] == "lookup:k=3"
        assert given["runner_up"] is None

    def run(self) -> Found:
        return Found(self.speedup)


@pytest.mark.parametrize(
    ("verdict", "low", "high", "holds"),
    [
        ("draft", 1.1, 1.3, True),
        ("draft", 0.9, 1.1, None),
        ("draft", 0.8, 1.02, False),
        ("don't draft", 0.7, 0.9, True),
        ("don't draft", 1.0, 1.2, None),
        ("don't draft", 1.1, 1.3, False),
        ("undecided", 1.1, 1.3, False),
        ("undecided", 0.9, 1.3, True),
    ],
)
def test_the_interval_says_whether_a_profile_holds(
    verdict: str,
    low: float,
    high: float,
    holds: bool | None,
    same_key: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Fixed, "speedup", Speedup(mean=1.0, low=low, high=high, pairs=10))
    monkeypatch.setattr("outrider.tuning.tune.Trial", Fixed)
    monkeypatch.setattr("outrider.tuning.tune.space_of", _one)
    assert check(profile(verdict), SETTINGS)[0] is holds


def _one(opened: Any, more: list[str]) -> Any:
    from outrider.tuning.space import Arm, Space, named_arm

    assert more == ["lookup:k=3"]
    return Space([Arm(named=named_arm(more[0]), family="lookup")])


@pytest.mark.parametrize("arms", [None, [], {}, [{}], [1], [{"arm": 5}]], ids=repr)
def test_a_profile_without_arms_cannot_be_checked(arms: Any) -> None:
    with pytest.raises(OptionError, match="the profile names no arm"):
        check(profile("undecided", facts={"arms": arms}), SETTINGS)


def test_a_profile_of_other_models_is_not_checked() -> None:
    other = Profile(key={"target": "x\ny"}, verdict="draft", reason="", arms=profile("draft").arms)
    with pytest.raises(OptionError, match=r"measured with .*missing, now.* measure again") as found:
        check(other, SETTINGS)
    assert str(found.value).isprintable()


def test_the_command_ends_with_one_where_a_profile_is_no_longer_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = profile("draft").save(tmp_path / "mine.json")
    answers = iter([(True, Fixed.speedup), (False, Fixed.speedup), (None, None)])
    monkeypatch.setattr("outrider.tuning.tune.check", lambda *given: next(answers))
    assert main(["tune", "--check", str(file)]) == 0
    assert "(draft) holds: speedup 1.00 [0.90, 1.10]" in capsys.readouterr().out
    assert main(["tune", "--check", str(file)]) == 1
    assert "is no longer true" in capsys.readouterr().out
    assert main(["tune", "--check", str(file)]) == 3
    assert "cannot tell: nothing was measured" in capsys.readouterr().out


def test_a_check_writes_a_few_texts(same_key: None) -> None:
    """One prompt of the verdict: too few to tell."""
    holds, speedup = check(profile("draft"), SETTINGS)
    assert holds is None
    assert speedup is not None
    assert speedup.pairs == 1
