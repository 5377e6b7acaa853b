"""Profiles: files, keys, and what `load` does with them."""

import json
import logging
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import outrider
from outrider.core.errors import OptionError, OutriderWarning
from outrider.engine.learners.learning import Learning
from outrider.engine.options import Caching, Models, Reading, Runtime
from outrider.engine.profiles.choosing import profile_for, profile_key
from outrider.policies.schedule import Schedule
from outrider.strategy.profile import SCHEMA, Profile, ProfileArm
from outrider.strategy.recipe import Speculation
from outrider.testing.rigs import tabular_family

FAMILY = tabular_family(seed=1)
LOOKUP = ProfileArm(name="lookup:k=4", options={"drafter": "lookup", "num_speculative_tokens": 4})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own."""
    monkeypatch.setattr("outrider.strategy.profile.cache_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def no_warning() -> Iterator[None]:
    """Warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def key(**more: Any) -> dict[str, Any]:
    """The key of the tabular target on this machine."""
    return profile_key(Models(target=FAMILY.target), Runtime()) | more


def profile(**more: Any) -> Profile:
    settings: dict[str, Any] = {
        "key": key(),
        "verdict": "draft",
        "reason": "it is faster",
        "arms": [LOOKUP],
        "date": "2026-01-01T00:00:00+00:00",
        "command": "outrider tune --target x",
    }
    return Profile(**{**settings, **more})


def drafter(**options: Any) -> str:
    """The drafter that `load` chooses."""
    strategy = outrider.load(FAMILY.target, **options).strategy
    return type(strategy.drafter).__name__


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    whole = profile(
        arms=[LOOKUP, replace(LOOKUP, concurrency=4, cap=2, speedup={"mean": 1.2, "low": 1.1})],
        facts={"costs": {"1": 0.5}},
        weak=True,
        finished=False,
    )
    file = whole.save(tmp_path / "folder" / "mine.json")
    assert Profile.load(file) == whole
    assert whole.load_options(3) == LOOKUP.options
    assert whole.arm(4) == whole.arms[1]
    assert whole.arm(1, "images") is None


def test_limits_by_the_number_of_requests(tmp_path: Path) -> None:
    arms = [
        replace(LOOKUP, cap=4),
        replace(LOOKUP, concurrency=4, cap=0),
        replace(LOOKUP, kind="images", cap=9),
    ]
    whole = profile(arms=arms)
    assert Profile.load(whole.save(tmp_path / "own.json")) == whole
    assert whole.schedule == Schedule({1: 4, 4: 0})
    generator = outrider.load(FAMILY.target, profile=whole)
    assert generator.strategy.schedule == generator.strategy.stage.schedule == whole.schedule


@pytest.mark.parametrize("cap", [-1, 5, 1.5, False, "2"])
def test_wrong_limits_are_no_profile(cap: Any) -> None:
    arms = [replace(LOOKUP, cap=4), replace(LOOKUP, concurrency=4, cap=cap)]
    with pytest.raises(OptionError, match="is not a profile"):
        Profile.from_dict(json.loads(json.dumps(profile(arms=arms).to_dict())), "x.json")


def test_load_uses_a_profile_that_matches(
    caplog: pytest.LogCaptureFixture, no_warning: None
) -> None:
    assert drafter() != "Lookup"
    profile().save()
    with caplog.at_level(logging.INFO, "outrider"):
        generator = outrider.load(FAMILY.target)
    assert type(generator.strategy.drafter).__name__ == "Lookup"
    assert generator.strategy.windows == (4,)
    assert generator.profile == profile()
    assert "the profile in the cache of 2026-01-01: lookup:k=4 (draft)" in caplog.text


def test_dont_draft_is_followed(no_warning: None) -> None:
    plain = ProfileArm(name="none", options={"mode": "none"})
    profile(verdict="don't draft", arms=[plain]).save()
    assert drafter() == "NoDrafter"


def test_undecided_leaves_the_default(no_warning: None) -> None:
    before = drafter()
    profile(verdict="undecided", arms=[ProfileArm(name="auto")]).save()
    assert drafter() == before


@pytest.mark.parametrize(
    "options",
    [
        {"drafter": "recycling"},
        {"mode": "none"},
        {"num_speculative_tokens": 2},
        {"policy": "fixed(num_speculative_tokens=2)"},
        {"profile": "none"},
    ],
)
def test_the_choice_of_the_user_comes_first(options: dict[str, Any], no_warning: None) -> None:
    profile().save()
    generator = outrider.load(FAMILY.target, **options)
    assert generator.profile is None
    assert generator.strategy.windows != (4,)


@pytest.mark.parametrize("part", list(key()))
def test_each_part_of_the_key_that_differs_is_named(
    part: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = profile(key=key(**{part: "other"}))
    given.save()
    with pytest.warns(OutriderWarning, match=f"{part} other, now ") as caught:
        generator = outrider.load(FAMILY.target, profile=given)
    assert generator.profile is None
    assert "Measure again: outrider tune --target x" in str(caught[0].message)
    caplog.clear()
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, "outrider"):
        warnings.simplefilter("error")  # a call that names no profile has no warning
        assert outrider.load(FAMILY.target).profile is None
    if part != "target":  # one in the cache is found by its target
        assert (
            f"the newest profile in the cache is not used: it was measured with {part} other"
            in (caplog.text)
        )


def test_the_newest_of_two_counts(no_warning: None) -> None:
    profile().save(profile().place.with_name("a.json"))
    newer = profile(date="2026-02-01T00:00:00+00:00", arms=[ProfileArm(name="auto")])
    newer.save(profile().place.with_name("b.json"))
    assert outrider.load(FAMILY.target).profile == newer


def test_a_profile_beside_a_drafter_is_refused() -> None:
    with pytest.raises(OptionError, match="a profile and options of drafting are both given"):
        outrider.load(FAMILY.target, drafter="lookup", profile=profile())


def test_a_profile_beside_a_policy_of_the_cache_is_refused_or_not_used() -> None:
    profile().save()
    runtime = Runtime(caching=Caching.of(draft_kv_policy="h2o"))
    asked = (Models(target=FAMILY.target), Speculation(), runtime, Reading(), Learning())
    assert profile_for("auto", *asked) == (None, Speculation())
    assert profile_for("auto", *asked[:2], Runtime(), *asked[3:])[0] == profile()
    with pytest.raises(OptionError, match="a profile and a policy of the cache are both given"):
        profile_for(profile(), *asked)


def test_a_profile_beside_guidance_is_refused_and_one_in_the_cache_is_not_used() -> None:
    profile().save()
    assert outrider.load(FAMILY.target).profile is not None
    guided = outrider.load(FAMILY.target, guidance=2.0)
    assert guided.profile is None and guided.strategy.target.info.guidance == 2.0
    with pytest.raises(OptionError, match="a profile and a selection, guidance or layer skipping"):
        outrider.load(FAMILY.target, guidance=2.0, profile=profile())


BROKEN: dict[str, str] = {
    "cut": '{"schema": 1, "ke',
    "a list": "[1]",
    "no schema": "{}",
    "unknown verdict": json.dumps(profile().to_dict() | {"verdict": "maybe"}),
    "unknown option": json.dumps(
        profile().to_dict() | {"arms": [{"name": "x", "options": {"trust_remote_code": True}}]}
    ),
    "arms of another kind": json.dumps(profile().to_dict() | {"arms": [1]}),
    "deep": "[" * 100_000,
    **{
        f"{name} {number}": json.dumps(profile().to_dict() | {name: value})
        for name, values in {
            "schema": (True, -1),
            "date": (None, 5),
            "facts": ([], float("nan")),
            "prompts": (None, []),
            "finished": ("no",),
            "reason": (1,),
            "arms": (
                [{"name": "x", "options": []}],
                [{"name": "x", "options": ["mode"]}],
                [{"name": "x", "options": {"mode": []}}],
                [{"name": "x", "options": {"num_speculative_tokens": float("inf")}}],
                [{"name": None}],
                [{"name": "x", "speedup": "fast"}],
                [{"name": "x", "concurrency": 0}],
            ),
        }.items()
        for number, value in enumerate(values)
    },
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_corrupt_file_is_ignored_with_a_line(kind: str) -> None:
    file = profile().place
    file.parent.mkdir(parents=True)
    file.write_text(BROKEN[kind])
    with pytest.warns(OutriderWarning, match="is not a profile: it is ignored") as caught:
        assert outrider.load(FAMILY.target).profile is None
    assert [one.filename for one in caught] == [__file__]
    with pytest.raises(OptionError, match=r"is not a profile\. Make one with `outrider tune`"):
        outrider.load(FAMILY.target, profile=file)


OLD = ProfileArm(name="old", options={"drafter": "renamed"})


@pytest.mark.parametrize(
    "options",
    [{"drafter": "renamed"}, {"policy": "renamed"}, {"num_speculative_tokens": -1}],
    ids=str,
)
def test_a_profile_with_options_that_no_longer_exist_is_ignored(options: dict[str, Any]) -> None:
    file = profile(arms=[replace(OLD, options=options)], command="a\nb\x1b[0m").save()
    with pytest.warns(OutriderWarning, match="is ignored: ") as caught:
        assert outrider.load(FAMILY.target).profile is None
    [message] = [str(one.message) for one in caught]
    assert str(file) in message and caught[0].filename == __file__
    assert message.endswith(r"Remove it, or measure again: a\nb\x1b[0m")
    with pytest.raises(OptionError, match="cannot be used: ") as refused:
        outrider.load(FAMILY.target, profile=file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_profile_behind_one_that_is_ignored_is_used() -> None:
    profile().save(profile().place.with_name("a.json"))
    profile(arms=[OLD], date="2027").save(profile().place.with_name("b.json"))
    with pytest.warns(OutriderWarning, match=r"b\.json is ignored"):
        assert outrider.load(FAMILY.target).profile == profile()


def test_a_finished_profile_comes_before_a_newer_unfinished_one(no_warning: None) -> None:
    profile().save(profile().place.with_name("a.json"))
    profile(date="2027", finished=False).save(profile().place.with_name("b.json"))
    assert outrider.load(FAMILY.target).profile == profile()


@pytest.mark.parametrize("guard", ["off", "warn"])
def test_the_guard_fits_every_profile(guard: str, no_warning: None) -> None:
    file = profile().save()
    for given in ("auto", file):
        generator = outrider.load(FAMILY.target, guard=guard, profile=given)
        assert generator.profile == profile()
        assert generator.strategy.windows == (4,)


def test_line_breaks_of_a_file_are_escaped() -> None:
    given = profile(key=key(cpu="x\ny"), command="a\x1b[31m")
    with pytest.warns(OutriderWarning) as caught:
        outrider.load(FAMILY.target, profile=given)
    [message] = [str(one.message) for one in caught]
    assert r"cpu x\ny, now " in message
    assert caught[0].filename == __file__, "the caller of load"
    assert message.endswith(r"a\x1b[31m")


@pytest.mark.parametrize(
    "given", [5, None, b"x", [], "~no-such-user/x", "a\0b", profile(date=None)], ids=repr
)
def test_what_is_no_profile_is_refused_in_one_line(given: Any) -> None:
    with pytest.raises(OptionError, match=r"profile|home folder") as refused:
        outrider.load(FAMILY.target, profile=given)
    assert str(refused.value).isprintable()


def test_numbers_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the profile cannot be written"):
        profile(facts={"load": float("nan")}).save(tmp_path / "x.json")


def test_a_file_of_the_future_is_ignored_with_a_line() -> None:
    profile(schema=SCHEMA + 1).save()
    with pytest.warns(OutriderWarning, match=f"a profile of version {SCHEMA + 1}.*ignored"):
        assert outrider.load(FAMILY.target).profile is None


def test_a_missing_file_is_named() -> None:
    with pytest.raises(OptionError, match=r"profile nowhere\.json cannot be read"):
        outrider.load(FAMILY.target, profile="nowhere.json")


def test_writers_at_once_leave_a_whole_file() -> None:
    """Every reader sees one of the profiles, whole."""
    several = [profile(reason="x" * 50_000 + str(i)) for i in range(4)]
    file = several[0].save()
    failed: list[Exception] = []

    def write(own: Profile) -> None:
        for _ in range(20):
            own.save()

    def read() -> None:
        for _ in range(60):
            try:
                assert Profile.load(file) in several
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(p,)) for p in several]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [each.name for each in file.parent.iterdir()] == [file.name]
