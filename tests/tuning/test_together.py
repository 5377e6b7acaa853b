"""Several requests at once, on the engine of the server: limits, texts, profile, report."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import outrider
from outrider.bench.models import OpenModels
from outrider.bench.strategies import Named
from outrider.cli.app import main
from outrider.core.errors import OptionError, StrategyError
from outrider.engine.serving.engine import Engine
from outrider.engine.serving.settings import ServingSettings
from outrider.policies.schedule import Schedule
from outrider.strategy import Profile
from outrider.tuning import report
from outrider.tuning.concurrency.blocks import Blocks
from outrider.tuning.concurrency.feeder import Feeder
from outrider.tuning.concurrency.levels import Part
from outrider.tuning.concurrency.together import own_limit, used_arm
from outrider.tuning.intervals import Speedup
from outrider.tuning.race import Entry
from outrider.tuning.run import Tuning
from outrider.tuning.settings import TuneSettings, parse_numbers
from outrider.tuning.space import named_arm, plain_arm, space_of
from outrider.tuning.verdict import Answer, Verdict
from tests.tuning.conftest import tuning

PROMPTS = [(1, 40, 50, 60, 40, 50, 60 + i) for i in range(6)]


@pytest.fixture
def blocks(opened: OpenModels) -> Blocks:
    arm = space_of(opened, ["lookup:k=4"]).arm("lookup:k=4")
    return Blocks(
        opened=opened,
        plain=plain_arm(),
        arm=arm,
        prompts={Part.CHOICE: PROMPTS[:4], Part.JUDGING: PROMPTS[4:]},
        sampling={"max_new_tokens": 10},
    )


def test_the_same_requests_are_served_by_all(blocks: Blocks) -> None:
    found = blocks(2, (4, 2), Part.CHOICE, 0)
    assert set(found) == {4, 2}
    assert (blocks.texts, blocks.differ) == (8, 0)
    blocks(2, (4,), Part.JUDGING, 1)
    assert blocks.texts == 10


def test_each_pass_has_engines_of_its_own(blocks: Blocks) -> None:
    """A drafter that had written a text before would copy it."""
    blocks(2, (4,), Part.CHOICE, 0)
    first = blocks._pass
    blocks(2, (4,), Part.CHOICE, 1)
    second = blocks._pass
    assert first is not None and second is not None
    assert first.feeders["4"].generator is not second.feeders["4"].generator
    sent = [feeder.prompts for feeder in second.feeders.values()]
    assert sent[0] == sent[1] and sorted(sent[0]) == sorted(first.feeders["4"].prompts)


def test_another_text_stops_the_measurement(
    blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Feeder.run

    def spoiled(own: Feeder, seconds: float, until: int) -> float:
        spent = run(own, seconds, until)
        if own.generator.strategy.drafts and "0/0" in own.texts:
            own.texts["0/0"] = (1, 2, 3)
        return spent

    monkeypatch.setattr(Feeder, "run", spoiled)
    with pytest.raises(StrategyError, match="wrote 1 of 4 texts that are not"):
        blocks(2, (4,), Part.CHOICE, 0)


def test_drafts_end_where_the_schedule_says(opened: OpenModels) -> None:
    drafted: dict[tuple[int, int], int] = {}
    texts: dict[int, list[tuple[int, ...]]] = {}
    for cap in (4, 0):
        generator = opened.build(named_arm("lookup:k=4"))
        generator.limit(Schedule({1: 4, 2: cap}))
        for count in (1, 2):
            given = [list(ids) for ids in PROMPTS[:count]]
            results = generator.generate(given, max_new_tokens=12)
            drafted[cap, count] = sum(r.speculation.target.drafted for r in results)
            texts.setdefault(count, []).append(tuple(t for r in results for t in r.token_ids))
    assert drafted[0, 1] == drafted[4, 1] > 0
    assert drafted[0, 2] == 0 < drafted[4, 2]
    assert all(own[0] == own[1] for own in texts.values())


def test_the_engine_of_a_server_follows_the_schedule(opened: OpenModels) -> None:
    counts = {}
    for clients in (1, 2):
        generator = opened.build(named_arm("lookup:k=4"))
        generator.limit(Schedule({1: 4, 2: 0}))
        feeder = Feeder(
            generator,
            ServingSettings(max_num_seqs=2),
            sampling={"max_new_tokens": 12},
            prompts=PROMPTS,
            clients=clients,
        )
        feeder.run(60.0, 1)  # the first request: the others run beside it, or not yet
        counts[clients] = feeder.engine.state.counters["draft_tokens"]
    assert counts[2] == 0 < counts[1]


def test_under_other_rules_no_schedule_is_used(opened: OpenModels) -> None:
    options = {"drafter": "model", "mode": "distribution", "num_speculative_tokens": 2}
    generator = opened.build(Named(name="sampled", options=options))
    generator.limit(Schedule({1: 1}))
    assert generator.strategy.stage.schedule == Schedule()


def test_the_limit_of_one_request_is_the_length_of_the_arm(opened: OpenModels) -> None:
    arms = {name: space_of(opened, [name]).arm(name) for name in ("lookup:k=3", "recycling:n=8")}
    assert own_limit(opened, arms["lookup:k=3"]) == 3
    assert own_limit(opened, arms["recycling:n=8"]) == 8
    assert own_limit(opened, plain_arm()) == 0
    assert own_limit(opened, space_of(opened).arm("auto")) is None


def test_an_undecided_verdict_keeps_auto_unless_it_is_slower(opened: OpenModels) -> None:
    arms = {arm.name: arm for arm in space_of(opened).arms}
    speed = Speedup(mean=1.0, low=0.9, high=1.1, pairs=8)
    verdict = Verdict(
        answer=Answer.UNDECIDED,
        arm="lookup:k=4",
        speedup=speed,
        speedups={},
        logs={},
        look=1,
        classes={},
    )
    slow = Entry(name="auto", logs=[-0.1, -0.11, -0.09, -0.1])
    assert used_arm(verdict, arms, [Entry(name="auto", logs=[-0.1, 0.1])]).name == "auto"
    assert used_arm(verdict, arms, [slow]).name == "none"
    assert used_arm(None, arms, [slow]).name == "none"
    assert used_arm(None, arms, []).name == "auto"


def test_a_tuning_with_several_requests(
    finished: tuple[Profile, Tuning],
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, _ = finished
    shutil.copytree(work, tmp_path / "work")
    for module in ("run", "outcome"):  # whatever the clock says of the arms
        monkeypatch.setattr(
            f"outrider.tuning.{module}.used_arm", lambda verdict, arms, entries: arms["auto"]
        )
    assert first.facts["concurrency"] == {}
    more = tuning(tmp_path / "work")
    more.settings = TuneSettings(
        **{
            name: getattr(more.settings, name)
            for name in ("models", "prompts", "sampling", "budget", "force")
        },
        concurrency=(1, 2),
    )
    profile = more.run()  # continues: only several requests are measured
    assert profile.verdict == first.verdict
    raced = [
        {row["arm"]: row["raced"] for row in one.facts["arms"] if row["raced"]}
        for one in (first, profile)
    ]
    assert raced[0] == raced[1]
    assert [arm.concurrency for arm in profile.arms] == [1, 2]
    assert profile.facts["concurrency"]["differ"] == 0
    file = profile.save(tmp_path / "profile.json")
    assert Profile.load(file).schedule == profile.schedule
    generator = outrider.load(
        "tiny", qualifier="none", draft="none", dtype="float32", profile=profile
    )
    assert generator.strategy.schedule == profile.schedule
    assert main(["tune", "--show", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "Several requests at once, with" in shown
    assert len(report.together_bars(profile)) == 2


def test_wrong_numbers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_numbers("1, 4,16") == (1, 4, 16)
    with pytest.raises(OptionError, match="concurrency is '4;8'"):
        parse_numbers("4;8")
    with pytest.raises(OptionError, match="concurrency is 0"):
        TuneSettings(concurrency=(0,))
    assert main(["tune", "--concurrency", "many"]) == 2
    assert "Give numbers such as 1,4,16" in capsys.readouterr().err


def test_a_prompt_that_is_read_counts_as_a_request(opened: OpenModels) -> None:
    generator = opened.build(named_arm("lookup:k=4"))
    generator.limit(Schedule({1: 4, 2: 0}))
    engine = Engine(generator, publish=lambda events: None)
    sample = SimpleNamespace(drafts=True)
    assert engine._drafting.depths([sample], 0)[0] > 4  # type: ignore[list-item]
    assert engine._drafting.depths([sample], 16) == [0]  # type: ignore[list-item]
