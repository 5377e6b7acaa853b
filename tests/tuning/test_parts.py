"""Parts of a tuning: prompts, arms, facts, screening, reasons and settings."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from outrider.bench.measure import Place, Run
from outrider.bench.models import OpenModels
from outrider.bench.strategies import Named
from outrider.core.errors import OptionError
from outrider.models.replay import Recording
from outrider.strategy.catalogue import names
from outrider.tuning.facts import Facts, lower_quartile
from outrider.tuning.prompts import split
from outrider.tuning.reasons import Reason
from outrider.tuning.replay_run import Prediction, kept, screen
from outrider.tuning.settings import parse_budget
from outrider.tuning.space import Arm, Screening, adaptive_of, plain_arm, space_of
from tests.tuning.conftest import SAMPLING

FACTS = Facts(seconds={1: 1e-3, 2: 1.1e-3, 4: 1.2e-3, 16: 2e-3}, overhead=1e-4, load=0.5, cores=2)


def places(count: int, kind: str = "x") -> list[Place]:
    return [Place(kind, f"{kind}/{i}", (1, 2, i)) for i in range(count)]


def test_every_third_prompt_of_a_class_judges() -> None:
    parts = split([*places(30), *places(9, "images")])
    assert (len(parts.search), len(parts.verdict)) == (26, 13)
    assert sum(place.workload == "images" for place in parts.verdict) == 3
    assert not {p.task for p in parts.search} & {p.task for p in parts.verdict}
    assert not parts.weak


def test_the_parts_depend_on_the_prompts_alone() -> None:
    given = places(24)
    parts, again = split(given), split(given[::-1])
    assert parts == again
    assert parts.digest == again.digest != split(given[:-1]).digest
    assert split(given[:23]).weak


def test_one_prompt_is_too_few() -> None:
    with pytest.raises(OptionError, match="1 prompt is too few"):
        split(places(1))
    assert len(split(places(2)).verdict) == 1


def test_every_drafter_is_an_arm_or_left_out_by_name(opened: OpenModels) -> None:
    space = space_of(opened)
    families = {arm.family for arm in space.arms} | {skip.name for skip in space.skipped}
    combinations = {"fallback", "switch", "merge", "pearl", "bypass", "specmquant", "recorded"}
    assert {*names("drafter")} - families - combinations == {"none"}
    assert all(skip.reason for skip in space.skipped)
    assert "Give --qualifier" in {skip.hint for skip in space.skipped}
    assert len({arm.name for arm in space.arms}) == len(space.arms)
    assert space.arm("draft:k=4").models == 1
    assert space.arm("recycling:k=8,n=16").screening is Screening.CLOSE


def test_an_arm_that_is_named_is_raced(opened: OpenModels) -> None:
    space = space_of(opened, ["swift", "lookup:k=4"])
    assert space.arm("swift").screening is Screening.NONE
    assert space.arm("lookup:k=4").screening is Screening.NONE
    assert plain_arm().named.is_baseline


def test_strategies_of_a_bench_follow_no_profile(
    opened: OpenModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError("a profile was looked for")

    monkeypatch.setattr("outrider.engine.profiles.choosing._cached", refuse)
    assert opened.build(space_of(opened).arm("auto").named).profile is None


def test_an_adaptive_arm_has_no_lengths() -> None:
    named = Named(name="draft:growth=eagle2,k=4", options={
        "mode": "exact", "drafter": "model", "growth": "eagle2", "num_speculative_tokens": 4
    })  # fmt: skip
    arm = adaptive_of(Arm(named=named, family="tree", models=1))
    assert arm.name == "draft:growth=eagle2"
    assert arm.named.options == {"mode": "exact", "drafter": "model", "growth": "eagle2"}
    assert arm.adaptive


def test_a_curve_that_descends_is_a_busy_machine() -> None:
    assert not FACTS.busy
    shaken = replace(FACTS, seconds={1: 2.7, 2: 4.0, 3: 7.6, 4: 4.2})
    assert shaken.busy
    assert shaken.pooled == pytest.approx(1.7 / 4.2)
    assert Facts.from_dict(FACTS.to_dict()) == FACTS
    assert lower_quartile([4.0, 1.0, 2.0, 3.0, 100.0]) == 2.0


@pytest.fixture(scope="module")
def recordings(opened: OpenModels) -> list[Recording]:
    """Two texts of the target."""
    generator = opened.build(plain_arm().named)
    found = []
    for prompt in ((1, 40, 50, 60), (1, 70, 80, 90)):
        generator.reset()
        result = generator.generate(list(prompt), max_new_tokens=24)
        found.append(Recording(prompt, result.token_ids))
    return found


def arm_of(opened: OpenModels, name: str) -> Arm:
    return space_of(opened).arm(name)


def test_screening_counts_what_live_decoding_counts(
    opened: OpenModels, recordings: list[Recording]
) -> None:
    arm = arm_of(opened, "draft:k=3")
    sampling: dict[str, Any] = {"max_new_tokens": 24}
    found = screen(arm, opened, recordings, FACTS, sampling)
    live = opened.build(arm.named)
    rounds = accepted = drafted = tokens = 0
    for recording in recordings:
        live.reset()
        result = live.generate(list(recording.prompt), **sampling)
        counters = result.speculation.target
        rounds, tokens = rounds + counters.rounds, tokens + len(result.token_ids)
        accepted, drafted = accepted + counters.accepted, drafted + counters.drafted
    assert found.tokens_per_round == tokens / rounds
    assert found.acceptance == accepted / drafted
    assert found.texts == 2


def test_a_drafter_is_new_in_each_screening(
    opened: OpenModels, recordings: list[Recording]
) -> None:
    """A suffix tree that has written the texts would predict them: none can be handed in."""
    arm = arm_of(opened, "suffix:k=8,n=8")
    sampling: dict[str, Any] = {"max_new_tokens": 24}
    first, second = (screen(arm, opened, recordings, FACTS, sampling) for _ in range(2))
    assert (first.tokens_per_round, first.acceptance) == (
        second.tokens_per_round,
        second.acceptance,
    )
    assert all(isinstance(value, str | int) for value in arm.named.options.values())
    used = opened.build(arm.named).strategy.drafter
    counts = []
    for _ in range(2):
        given = replace(
            arm,
            named=Named(
                name="used",
                options={"drafter": used, "num_speculative_tokens": 8, "num_draft_nodes": 8},
            ),
        )
        counts.append(screen(given, opened, recordings, FACTS, sampling).tokens_per_round)
    assert counts[0] == first.tokens_per_round
    assert counts[1] > 1.2 * counts[0]


def test_an_arm_that_depends_on_clocks_is_not_screened(opened: OpenModels) -> None:
    with pytest.raises(ValueError, match="auto cannot be replayed"):
        screen(space_of(opened).arm("auto"), opened, [], FACTS, SAMPLING)


def test_the_best_of_each_family_races_and_what_is_close() -> None:
    speeds = {"a:1": 1.5, "a:2": 1.45, "a:3": 0.9, "b:1": 1.0, "b:2": 0.8, "c:1": 0.5, "live": None}
    arms = [
        Arm(
            named=Named(name=name),
            family=name.partition(":")[0],
            screening=Screening.EXACT if speed else Screening.NONE,
        )
        for name, speed in speeds.items()
    ]
    predictions = {
        name: Prediction(arm=name, speedup=speed, tokens_per_round=1.0, acceptance=0.5, texts=1)
        for name, speed in speeds.items()
        if speed
    }
    assert [arm.name for arm in kept(arms, predictions, 8)] == ["a:1", "a:2", "b:1", "c:1", "live"]
    assert [arm.name for arm in kept(arms, predictions, 2)] == ["a:1", "b:1", "live"]


def runs(seconds: float, tokens: int, **more: Any) -> Sequence[Run]:
    parts = {"prefill": 0.0, "draft": more.pop("draft", 0.0), "verify": seconds}
    run = Run(
        system="x", workload="x", task="x/1", repeat=0, prompt_tokens=1, token_ids=[1] * tokens,
        seconds=seconds, ttft_seconds=0.0, repeated=0, peak_bytes=0, parts=parts, **more,
    )  # fmt: skip
    return [run]


def test_a_reason_is_computed() -> None:
    """Rounds of 4 tokens cost 1.41 plain ones and write 1.22."""
    plain = runs(100.0, 100)
    reason = Reason.of(plain, runs(141.0, 122, rounds=100, drafted=400, draft=22.0))
    assert reason is not None
    assert (reason.cost, reason.written) == (pytest.approx(1.41), pytest.approx(1.22))
    assert reason.needed is not None
    chance = reason.needed
    assert (1 - chance**5) / (1 - chance) == pytest.approx(1.41)
    assert reason.affordable == pytest.approx(0.22 - 0.19)
    text = str(reason)
    assert text.startswith(
        "A round of 4.0 drafted tokens costs 1.41 plain ones and writes 1.22: drafting loses 13%."
    )
    assert f"from acceptance {chance:.2f} (had {reason.acceptance:.2f})" in text
    assert "or if drafting took 0.03 plain tokens a round (takes 0.22)" in text


def test_reasons_of_the_extremes() -> None:
    plain = runs(100.0, 100)
    fast = Reason.of(plain, runs(150.0, 300, rounds=100, drafted=400))
    assert str(fast).endswith("drafting is 2.00 times as fast.")
    slow = Reason.of(plain, runs(600.0, 110, rounds=100, drafted=200))
    assert slow is not None
    assert slow.needed is None
    assert "would not pay even if every drafted token were kept, and not with drafts" in str(slow)
    assert Reason.of(plain, runs(100.0, 100, rounds=100)) is None
    whole = Reason.of(plain, runs(50.0, 300, rounds=100, drafted=200))
    assert whole is not None
    assert whole.acceptance == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("1h", 3600.0)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1m", "ten", "10d", "1e3"])
def test_wrong_budgets(text: str) -> None:
    with pytest.raises(OptionError, match="budget is"):
        parse_budget(text)
