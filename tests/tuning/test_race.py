"""The race and the verdict on machines with a virtual clock, where the best arm is known."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from outrider.tuning.intervals import CLIP, Speedup, log_ratio, quantile, within
from outrider.tuning.race import Entry, Race
from outrider.tuning.verdict import LOOKS, Answer, Trial, Verdict
from tests.tuning.worlds import World

ARMS, SEEDS = 30, 100
TEXTS, SEARCH, FRESH = 768, 64, 64


def tuned(world: World, texts: int = TEXTS) -> Verdict:
    """Race all arms of a world and judge the winner."""
    race = Race(
        arms=[Entry(name=name) for name in world.speeds],
        plain="none",
        prompts=SEARCH,
        write=world.writer("search"),
        texts=texts,
    )
    winner, runner_up, *_ = race.run()
    return Trial(
        winner=winner.name,
        runner_up=runner_up.name,
        plain="none",
        prompts=["x"] * FRESH,
        write=world.writer("verdict"),
    ).run()


def planted(seed: int, low: float, high: float, best: float) -> Mapping[str, float]:
    """Thirty arms with speeds between two bounds, and one of them at `best`."""
    rng = np.random.default_rng(seed)
    speeds = np.exp(rng.uniform(math.log(low), math.log(high), ARMS))
    speeds[rng.integers(ARMS)] = best
    return {f"arm{i}": float(speed) for i, speed in enumerate(speeds)}


def test_the_best_of_thirty_arms_is_found() -> None:
    """Within 3 %, in at least 95 of 100 seeds; it is at least 8 % faster than the others."""
    found = drafted = 0
    for seed in range(SEEDS):
        speeds = planted(1000 + seed, 0.6, 1.25, 1.35)
        verdict = tuned(World(speeds, seed))
        found += speeds[verdict.arm] > 0.97 * max(speeds.values())
        drafted += verdict.answer is Answer.DRAFT
    assert found >= 95
    assert drafted >= 95


def test_it_says_dont_draft_where_none_pays() -> None:
    answers = Counter(
        tuned(World(planted(2000 + seed, 0.5, 0.88, 0.88), seed)).answer for seed in range(SEEDS)
    )
    assert answers[Answer.PLAIN] >= 95
    assert answers[Answer.DRAFT] == 0


@pytest.mark.parametrize("level", [1.0, 1.03])
def test_a_gain_is_rarely_claimed_where_there_is_none(level: float) -> None:
    """At most 2.5 %: the winner of thirty equal arms is judged on fresh prompts."""
    speeds = {f"arm{i}": level for i in range(ARMS)}
    claimed = sum(
        tuned(World(speeds, seed), texts=200).answer is Answer.DRAFT for seed in range(2 * SEEDS)
    )
    assert claimed <= 0.025 * 2 * SEEDS


def test_a_plain_interval_on_the_winner_would_claim_it_more_often() -> None:
    """What the fresh prompts are for: the same 95 % interval on the prompts of the race."""
    claimed, seeds = 0, SEEDS // 2
    for seed in range(seeds):
        world = World({f"arm{i}": 1.0 for i in range(ARMS)}, seed)
        race = Race(
            arms=[Entry(name=name) for name in world.speeds],
            plain="none",
            prompts=SEARCH,
            write=world.writer("search"),
            texts=TEXTS,
        )
        speedup = race.run()[0].speedup
        claimed += speedup is not None and speedup.low > 1.0
    assert claimed > 0.05 * seeds


DISTURBED: dict[str, dict[str, Any]] = {
    "stalls": {"stalls": 0.15},
    "drift": {"drift": lambda now: 1.3 if now > 250 else 1.0},
    "a neighbour": {"drift": lambda now: 1.6 if int(now / 20) % 3 == 0 else 1.0},
}


@pytest.mark.parametrize("kind", DISTURBED)
def test_a_disturbed_machine_changes_no_verdict(kind: str) -> None:
    """The verdict is the right one or undecided, never the opposite."""
    for seed in range(20):
        good = tuned(World(planted(seed, 0.6, 1.1, 1.4), seed, **DISTURBED[kind]), texts=300)
        bad = tuned(World(planted(seed, 0.5, 0.8, 0.85), seed, **DISTURBED[kind]), texts=300)
        assert good.answer is not Answer.PLAIN
        assert bad.answer is not Answer.DRAFT


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_arms_moves_estimates_within_their_interval(reverse: bool) -> None:
    speeds = {"a": 1.3, "b": 1.1, "c": 0.9, "d": 0.8}
    names = sorted(speeds, reverse=reverse)
    drift = {"drift": lambda now: 1.0 + now / 200.0}  # slower from text to text
    ranked = Race(
        arms=[Entry(name=name) for name in names],
        plain="none",
        prompts=16,
        write=World(speeds, 3, **drift).writer("search"),  # pyright: ignore
        texts=300,
    ).run()
    assert [entry.name for entry in ranked][:2] == ["a", "b"]
    for entry in ranked:
        speedup = entry.speedup
        assert speedup is not None
        assert speedup.low < speeds[entry.name] < speedup.high


def test_the_first_writer_rotates() -> None:
    firsts: list[str] = []
    seen: set[tuple[int, int]] = set()

    def write(arm: str, prompt: int, repeat: int) -> float:
        if (prompt, repeat) not in seen:
            seen.add((prompt, repeat))
            firsts.append(arm)
        return 1.0

    Race(
        arms=[Entry(name="a"), Entry(name="b")], plain="none", prompts=6, write=write, texts=18
    ).run()
    assert firsts == ["none", "a", "b", "none", "a", "b"]


def test_prompts_come_again_with_a_new_repeat() -> None:
    places: list[tuple[int, int]] = []

    def write(arm: str, prompt: int, repeat: int) -> float:
        places.append((prompt, repeat))
        return 1.0

    Race(arms=[Entry(name="a")], plain="none", prompts=2, write=write, texts=8).run()
    assert places[::2] == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_an_arm_that_learns_is_judged_after_its_first_texts() -> None:
    entry = Entry(name="auto", learns=True, logs=[-1.0] * 8 + [0.5] * 4)
    assert entry.mean == 0.0  # half of the texts are left out at most
    entry.logs += [0.5] * 8
    assert entry.mean == 0.5


def test_a_deadline_stops_a_race_and_a_trial() -> None:
    left = iter([False, False, True, True, True, True])
    race = Race(
        arms=[Entry(name="a"), Entry(name="b")],
        plain="none",
        prompts=4,
        write=lambda *place: 1.0,
        texts=100,
        ended=lambda: next(left, True),
    )
    assert [len(entry.logs) for entry in race.run()] == [2, 2]
    trial = Trial(
        winner="a",
        runner_up=None,
        plain="none",
        prompts=["x"],
        write=lambda *place: 1.0,
        ended=lambda: True,
    )
    verdict = trial.run()
    assert (verdict.answer, verdict.speedup, verdict.look) == (Answer.UNDECIDED, None, 0)


def test_a_simpler_runner_up_that_is_as_fast_replaces_the_winner() -> None:
    speeds = {"model": 1.31, "lookup": 1.30}
    for simpler, arm in ((True, "lookup"), (False, "model")):
        verdict = Trial(
            winner="model",
            runner_up="lookup",
            plain="none",
            prompts=["x"] * 32,
            write=World(speeds, 1, fit=0.02, stalls=0.0).writer("verdict"),
            simpler=simpler,
        ).run()
        assert (verdict.answer, verdict.arm) == (Answer.DRAFT, arm)


def test_a_class_in_which_drafting_loses_is_named() -> None:
    speeds = {"text": 1.6, "image": 0.7}
    classes = ["text", "image", "text"] * 8

    def write(arm: str, prompt: int, repeat: int) -> float:
        return 1.0 if arm == "none" else 1.0 / (speeds[classes[prompt]] + 0.01 * (prompt % 5))

    verdict = Trial(winner="a", runner_up=None, plain="none", prompts=classes, write=write).run()
    assert verdict.slower_classes == ["image"]
    assert verdict.classes["text"].mean == pytest.approx(1.62, abs=0.02)


def test_repeats_of_a_prompt_are_no_further_pairs() -> None:
    """Four prompts written sixteen times say no more about other prompts than four prompts."""
    verdict = Trial(
        winner="a",
        runner_up=None,
        plain="none",
        prompts=["x"] * 4,
        write=World({"a": 1.05}, 1, stalls=0.0).writer("verdict"),
    ).run()
    assert verdict.speedup is not None
    assert verdict.speedup.pairs == 4
    assert verdict.look == len(LOOKS)


def test_quantiles_of_students_t() -> None:
    """Against a table (two-sided 95 % and 98.75 %)."""
    assert quantile(0.95, 7) == pytest.approx(2.3646, abs=1e-4)
    assert quantile(0.95, 30) == pytest.approx(2.0423, abs=1e-4)
    assert quantile(0.95, 1) == pytest.approx(12.706, abs=1e-3)
    assert quantile(0.9875, 63) == pytest.approx(2.573, abs=2e-3)
    assert within(0.0, 5) == 0.0


def test_ratios_are_clipped_and_single_pairs_have_no_interval() -> None:
    assert log_ratio(100.0, 1.0) == CLIP
    assert log_ratio(1.0, 100.0) == -CLIP
    assert Speedup.of([]) is None
    single = Speedup.of([0.0])
    assert single is not None
    assert (single.low, single.high) == (0.0, math.inf)
    assert single.to_dict()["high"] is None
