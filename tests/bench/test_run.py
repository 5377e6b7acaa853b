"""Runs of the tiny family: what is measured, in which order, and what goes on after a stop."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import outrider
from outrider.bench.identity import compare
from outrider.bench.measure import PARTS, Place
from outrider.bench.models import find_tiers, open_models
from outrider.bench.report.summary import summarise
from outrider.bench.run import Bench, Measured, order_of
from outrider.bench.settings import Models
from outrider.core.errors import OptionError
from tests.bench.conftest import Measure, small
from tests.bench.rivals import OwnEngine

pytestmark = pytest.mark.usefixtures("unchecked")


def test_every_system_writes_every_text(measure: Measure) -> None:
    measured = measure(repeats=2, strategies="draft:k=3,pyramid")
    keys = [run.key for run in measured.runs]
    assert len(keys) == len(set(keys)) == 3 * 2 * 2
    assert {run.system for run in measured.runs} == {"none", "draft:k=3", "pyramid"}
    assert {run.workload for run in measured.runs} == {"stories", "copy"}


def test_a_run_says_where_the_tokens_and_the_time_went(measure: Measure) -> None:
    for run in measure(ignore_eos=True).runs:
        assert run.tokens == 8
        assert 0 < run.ttft_seconds < run.seconds
        assert set(run.parts) == set(PARTS)
        assert sum(run.parts.values()) == pytest.approx(run.seconds)
        assert sum(run.drafted_at) == run.drafted
        assert sum(run.accepted_at) == run.accepted
        assert run.peak_bytes > 10**7
        assert (run.drafted > 0) == (run.system != "none")
        assert run.forwards == 8 or run.system != "none"


def test_the_text_is_that_of_an_ordinary_generator(measure: Measure) -> None:
    measured = measure(workloads="stories", temperature=0.8, top_p=0.9, seed=5)
    generator = outrider.load("tiny", dtype="float32", threads=1, mode="none")
    from outrider.bench.workloads import read_workloads

    [task] = read_workloads(["stories"], 1)
    plain = generator.generate(task.prompt, temperature=0.8, top_p=0.9, seed=5, max_new_tokens=8)
    for run in measured.runs:
        assert tuple(run.token_ids) == plain.token_ids


def test_systems_take_turns_and_everyone_is_first_once() -> None:
    systems: list[Any] = ["A", "B", "C"]
    places = [Place("w", f"w/{n}", (1,)) for n in range(3)]
    order = list(order_of(systems, places, 1))
    rows = [[s for s, p in order if p.task == f"w/{n}"] for n in range(3)]
    assert rows == [["A", "B", "C"], ["B", "C", "A"], ["C", "A", "B"]]
    later = list(order_of(systems, places, 2))[9:12]
    assert [s for s, _ in later] == ["B", "C", "A"]
    assert {p.repeat for _, p in later} == {1}


def test_prompts_that_do_not_fit_are_counted(measure: Measure, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    lines = [{"prompt": "word " * 3000}, {"prompt": "Once upon a time"}]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    measured = measure(workloads=str(file), prompts=2)
    assert measured.left_out == {"long": 1}
    assert {run.task for run in measured.runs} == {"long/2"}
    file.write_text(json.dumps(lines[0]))
    with pytest.raises(OptionError, match="no prompt leaves space for 8 tokens"):
        measure(workloads=str(file))


def test_what_can_not_be_built_is_refused_before_anything_is_written(
    measure: Measure, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=r"strategy 'pyramid:mode=exakt': unknown mode"):
        measure(folder=tmp_path / "out", strategies="pyramid:mode=exakt")
    assert not (tmp_path / "out" / "runs.jsonl").exists()


def test_scaled_models_write_the_same_text_and_are_labelled(measure: Measure) -> None:
    plain = measure(workloads="stories")
    scaled = measure(workloads="stories", cost_scale="x2", draft="none", strategies="none")
    assert scaled.runs[0].token_ids == plain.runs[0].token_ids
    summary = summarise(scaled)
    assert "cost-scaled" in summary["label"]
    assert summary["models"]["target"]["parameters"] > 2 * 5_400_000
    assert summarise(plain)["label"] is None
    with pytest.raises(OptionError, match="there is no draft to scale"):
        measure(draft="none", cost_scale_draft="x2", strategies="none")


def test_on_an_accelerator_scaled_models_need_no_file(tmp_path: Path) -> None:
    """Made in memory, here on the CPU: the same label and size, nothing written."""
    models = Models(dtype="float32", cost_scale="x2", qualifier="none", draft="none")
    found = find_tiers(models, tmp_path, on_disk=False)
    opened = open_models(models, found)
    tier = opened.tiers["target"]
    assert tier.label == "tiny/target cost-scaled to x2"
    assert tier.parameters > 2 * 5_400_000
    assert tier.weight_bytes == pytest.approx(4 * tier.parameters, rel=0.01)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OptionError, match="many"):
        find_tiers(replace(models, cost_scale="many"), tmp_path, on_disk=False)


class Stop(Exception):
    """Raised by a progress callback, as Ctrl-C would be."""


def stopped_after(count: int, folder: Path, tmp_path: Path) -> None:
    def tell(done: int, total: int, what: str) -> None:
        if done == count:
            raise Stop

    with pytest.raises(Stop):
        Bench(settings=small(), folder=folder, scratch=tmp_path, costs=False).run(tell)


def test_an_interrupted_run_goes_on(measure: Measure, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    stopped_after(2, folder, tmp_path)
    before = (folder / "runs.jsonl").read_text().splitlines()
    assert len(before) == 3  # the environment, and two texts
    with (folder / "runs.jsonl").open("a") as file:
        file.write('{"kind": "run", "system": "dra')  # what a kill in the middle leaves
    measured = measure(folder=folder)
    after = (folder / "runs.jsonl").read_text().splitlines()
    assert after[:3] == before
    assert len(after) - 1 == len(measured.runs) == 4
    assert [json.loads(line)["kind"] for line in after] == ["fact", *["run"] * 4]
    again = measure(folder=folder)  # nothing is left to do
    assert (folder / "runs.jsonl").read_text().splitlines() == after
    assert [r.seconds for r in again.runs] == [r.seconds for r in measured.runs]


def test_other_settings_are_refused(measure: Measure, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    stopped_after(1, folder, tmp_path)
    with pytest.raises(OptionError, match=r"repeats: 1, now 2\).*another folder"):
        measure(folder=folder, repeats=2)
    (folder / "runs.jsonl").write_text('{"kind": "run"}\n')
    with pytest.raises(OptionError, match="is damaged at byte 0"):
        measure(folder=folder)
    (folder / "settings.json").write_text("{")
    with pytest.raises(OptionError, match="is damaged"):
        measure(folder=folder)
    with pytest.raises(OptionError, match="is a file"):
        measure(folder=folder / "settings.json")


def opened_models(tmp_path: Path) -> Any:
    models = Models(dtype="float32", threads=1, qualifier="none", draft="none")
    return open_models(models, find_tiers(models, tmp_path))


def test_a_changed_token_is_a_mismatch(measure: Measure, tmp_path: Path) -> None:
    measured = measure()
    assert measured.mismatches == () or measured.mismatches == []
    opened = opened_models(tmp_path)
    base, drafted = measured.runs[0], next(r for r in measured.runs if r.system != "none")
    assert base.task == drafted.task
    wrong = [*drafted.token_ids]
    wrong[3] = (wrong[3] + 7) % 4096
    places = [Place(base.workload, base.task, (1, 2, 3))]
    [found] = compare(
        [base, replace(drafted, token_ids=wrong)],
        measured.exactness,
        opened,
        places,
        measured.settings.sampling,
    )
    assert (found.system, found.index, found.near_tie) == ("draft:k=3", 3, False)
    assert found.margin is not None and found.margin > 0.01
    assert "NOT a near tie" in str(found)
    short = replace(drafted, token_ids=drafted.token_ids[:5])
    [cut] = compare([base, short], measured.exactness, opened, places, measured.settings.sampling)
    assert (cut.index, cut.margin, cut.near_tie) == (5, None, False)


def with_rivals(tmp_path: Path, *rivals: OwnEngine, **changes: Any) -> Measured:
    return Bench(
        settings=small(**changes),
        scratch=tmp_path,
        rivals={rival.name: rival for rival in rivals},
        costs=False,
    ).run()


def test_rivals_write_the_same_prompts_in_the_same_run(tmp_path: Path) -> None:
    same, other = OwnEngine(), OwnEngine(name="spoilt", spoil=2)
    brief = OwnEngine(name="brief", precision="q8_0")
    measured = with_rivals(tmp_path, same, other, brief)
    assert list(measured.rivals) == ["own", "spoilt", "brief"]
    [(target, draft, threads, dtype)] = same.opened
    assert (target.name, draft and draft.name, threads, dtype) == ("target", "draft", 1, "float32")
    assert same.closed == 1
    summary = summarise(measured)
    texts = summary["rivals"]["same_text"]
    assert list(texts) == ["own", "spoilt"]  # equal precision alone is compared
    assert texts["own"]["equal_texts"] == texts["own"]["texts"] == 2
    assert texts["own"]["equal_tokens"] == 1.0
    assert texts["spoilt"]["equal_texts"] == 0
    assert texts["spoilt"]["earliest_difference"] == 2
    assert texts["spoilt"]["equal_tokens"] == pytest.approx(7 / 8)
    against = summary["workloads"]["all"]["against_rivals"]["own"]
    assert set(against) == {"none", "draft:k=3"}
    assert against["none"]["pairs"] == 2
    assert summary["workloads"]["stories"]["systems"]["own"]["kind"] == "rival"


def test_rivals_that_are_not_there_are_named(tmp_path: Path) -> None:
    absent = OwnEngine(name="absent", install="pip install absent")
    unfit = OwnEngine(name="unfit", refuses=True)
    drafted = OwnEngine(name="drafted", method="draft")
    measured = with_rivals(
        tmp_path, absent, unfit, drafted, draft="none", strategies="none", workloads="stories"
    )
    assert measured.missing == {
        "absent": "pip install absent",
        "unfit": "own cannot run this.",
        "drafted": "it needs a draft model.",
    }
    assert not drafted.opened
    assert {run.system for run in measured.runs} == {"none"}


def test_a_rival_that_fails_is_dropped_and_the_run_goes_on(tmp_path: Path) -> None:
    faulty = OwnEngine(name="faulty", fails_at=3)
    measured = with_rivals(tmp_path, faulty, OwnEngine())
    assert list(measured.rivals) == ["own"]
    assert "RuntimeError: out of everything" in measured.missing["faulty"]
    assert {run.system for run in measured.runs} == {"none", "draft:k=3", "own"}
    assert len(measured.runs) == 3 * 2


@pytest.mark.slow
def test_float32_rivals_are_compared_in_float32_whatever_the_run_computes_in(
    tmp_path: Path,
) -> None:
    measured = with_rivals(tmp_path / "a", OwnEngine(), dtype="bfloat16", max_new_tokens=24)
    texts = summarise(measured)["rivals"]["same_text"]["own"]
    assert (texts["texts"], texts["equal_texts"]) == (2, 2)
    sampled = with_rivals(tmp_path / "b", OwnEngine(), temperature=0.8)
    assert summarise(sampled)["rivals"]["same_text"] == {}


def test_the_best_of_both_sides_meet(tmp_path: Path) -> None:
    measured = with_rivals(tmp_path, OwnEngine(), OwnEngine(name="seeker", method="lookup"))
    slowed = [
        replace(run, seconds=run.seconds + 10.0) if run.system in ("own", "none") else run
        for run in measured.runs
    ]
    best = summarise(replace(measured, runs=slowed))["workloads"]["all"]["best"]
    assert best["strategy"] == "draft:k=3"
    assert best["rival"] == best["lookup_rival"] == "seeker"
    assert best["against_rival"] == best["against_lookup_rival"]
    assert best["against_rival"]["pairs"] == 2


def test_each_repeat_has_a_drafter_that_knows_nothing() -> None:
    """Or one that remembers would copy the answers of the repeat before, and of the warm-up."""
    from outrider.bench.measure import Place, StrategySystem
    from outrider.drafters import Suffix
    from outrider.engine.generator import Generator
    from outrider.policies import FixedTree
    from outrider.strategy import Strategy
    from tests.exactness.setups.rigs import tabular_family

    target = tabular_family(vocab_size=50).target

    def build() -> Generator:
        return Generator(
            Strategy(target=target, drafter=Suffix(), policy=FixedTree(depth=8, nodes=8))
        )

    system = StrategySystem("suffix", build, {"max_new_tokens": 40, "temperature": 1.0, "seed": 1})
    first, again, fresh = (system.write(Place("w", "t", (1, 2, 3), repeat)) for repeat in (0, 0, 1))
    assert again.accepted > first.accepted, "within a repeat it remembers"
    assert fresh.accepted == first.accepted
    assert fresh.token_ids == again.token_ids == first.token_ids
