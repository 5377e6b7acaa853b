"""The engine: deadlines, cancellation in each phase, failures, samples, scores of prompts."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import outrider
from outrider.core.types import Draft, Verified
from outrider.drafters import Aggressive, Lookup, Sam, Successors, Suffix
from outrider.engine.generator import Generator
from outrider.engine.serving.engine import Engine
from outrider.engine.serving.messages import Ended, Event, Submission
from outrider.engine.serving.scheduler import Phase
from outrider.engine.serving.settings import ServingSettings
from outrider.protocols import Request
from outrider.strategy import Strategy
from tests.engine.serving.setups import COSTS, Desk, held, until

LONG = tuple(range(20, 420))


@pytest.fixture(scope="module")
def tiny() -> Generator:
    return outrider.load("tiny", threads=1, mode="none")


def phase_of(desk: Desk, id: str) -> Phase:
    entry = desk.engine._scheduler.entries[f"{id}/0"]
    return entry.phase


@pytest.mark.parametrize("phase", list(Phase))
def test_a_cancelled_request_ends_before_the_next_step(tiny: Generator, phase: Phase) -> None:
    desk = Desk(tiny, max_num_seqs=1, step_ms=0.001)
    if phase is Phase.WAITING:
        desk.submit("first", (30, 31), max_new_tokens=50, ignore_eos=True)
        desk.engine.step()
    desk.submit("x", LONG, max_new_tokens=50, ignore_eos=True)
    for _ in range(100):
        desk.engine.step()
        if phase_of(desk, "x") is phase:
            break
    desk.engine.cancel("x")
    before = len(desk.events)
    desk.engine.step()
    ended = desk.ended("x")
    assert ended.phase == phase
    assert ended.result is not None
    assert ended.result.finish_reason == "cancelled"
    assert len([e for e in desk.events[before:] if e.id == "x"]) <= 2
    desk.run()
    assert desk.engine.state.running == 0


def test_deadlines_end_a_request_with_their_names(
    tiny: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("outrider.engine.serving.engine.perf_counter", lambda: now)
    desk = Desk(tiny, max_num_seqs=1)
    desk.submit("slow", (30, 31), max_new_tokens=40, ignore_eos=True, _finish_by=now + 20)
    desk.submit("late", (30, 31), max_new_tokens=4, _first_token_by=now + 5)
    desk.submit("last", (30, 31), max_new_tokens=4, _begin_by=now + 5)
    for _ in range(10):
        desk.engine.step()
        if desk.pieces("slow"):
            break
    assert not any(isinstance(event, Ended) for event in desk.events)
    now += 6
    desk.engine.step()
    assert desk.engine.state.running == 1
    now += 20
    desk.engine.step()
    assert not desk.engine.busy
    assert desk.ended("last").failure == "queue_timeout"
    assert desk.ended("late").failure == "deadline"
    assert desk.ended("late").phase == "waiting"
    assert desk.ended("slow").failure == "request_timeout"
    assert 0 < len(desk.result("slow").token_ids) < 40


def test_samples_of_one_prompt_read_it_once(tiny: Generator) -> None:
    desk = Desk(tiny, max_num_seqs=8)
    desk.submit("n", LONG, n=4, temperature=1.0, seed=3, max_new_tokens=6)
    desk.run()
    assert desk.engine.state.counters["prompt_tokens"] < len(LONG) + 8
    singles = tiny.generate(list(LONG), n=4, temperature=1.0, seed=3, max_new_tokens=6)
    assert [desk.result("n", i).token_ids for i in range(4)] == [r.token_ids for r in singles]
    assert [desk.ended("n", i).timing.cached_tokens for i in range(4)] == [0, 399, 399, 399]


def test_the_next_turn_continues_the_rows_of_the_last_one(tiny: Generator) -> None:
    desk = Desk(tiny)
    desk.submit("1", LONG, max_new_tokens=10, ignore_eos=True)
    desk.run()
    turn = (*LONG, *desk.result("1").token_ids, 40, 41)
    desk.submit("3", turn, max_new_tokens=5, _salt="other")
    desk.run()
    desk.submit("2", turn, max_new_tokens=5)
    desk.run()
    assert desk.ended("2").timing.cached_tokens == len(turn) - 3
    assert desk.ended("3").timing.cached_tokens == 0  # another salt: nothing is shared
    alone = tiny.generate(list(turn), max_new_tokens=5).token_ids
    assert desk.result("2").token_ids == desk.result("3").token_ids == alone


def test_a_preempted_sample_goes_on_without_reading_again(tiny: Generator) -> None:
    desk = Desk(tiny, max_num_seqs=2)
    for name in ("a1", "a2"):
        desk.submit(name, (*LONG, len(name), int(name[1])), max_new_tokens=40, ignore_eos=True)
    while desk.engine.state.counters.get("generation_tokens", 0) < 10:
        desk.engine.step()
    desk.submit("b", LONG[:9], max_new_tokens=5, _principal="b", ignore_eos=True)
    desk.run()
    assert desk.ended("a2").timing.preemptions == 1
    assert desk.engine.state.counters["prompt_tokens"] < 2 * len(LONG) + 50
    alone = tiny.generate([*LONG, 2, 2], max_new_tokens=40, ignore_eos=True)
    assert desk.result("a2").token_ids == alone.token_ids


def test_scores_of_a_prompt_are_those_of_one_forward(tiny: Generator) -> None:
    desk = Desk(tiny)
    ids = LONG[:150]
    desk.submit("s", ids, max_new_tokens=1, logprobs=2, _score_prompt=2)
    desk.run()
    scores = desk.pieces("s")[0].prompt_logprobs
    assert scores is not None
    assert scores[0] is None
    assert len(scores) == 150
    for at in (1, 63, 64, 65, 149):
        [single] = [tiny.generate(list(ids[:at]), max_new_tokens=1, logprobs=200)]
        [written] = single.logprobs
        found, wanted = scores[at], dict(written.top)
        assert found is not None
        assert found.token == ids[at]
        assert found.top == written.top[:2]
        if found.token in wanted:
            assert found.logprob == wanted[found.token]


class Broken(Lookup):
    """A drafter that raises after some rounds."""

    calls = 0

    def propose(self, *args: Any, **kwargs: Any) -> list[Draft]:
        type(self).calls += 1
        if type(self).calls > 3:
            raise ZeroDivisionError("on purpose")
        return super().propose(*args, **kwargs)


def test_a_drafter_that_raises_is_switched_off_and_no_text_changes(tiny: Generator) -> None:
    Broken.calls = 0
    broken = Generator(
        Strategy(target=tiny.strategy.target, drafter=Broken(min_ngram=1)),
        tokenizer=tiny.tokenizer,
        defaults=tiny.defaults,
    )
    desk = Desk(broken)
    prompts = [LONG[:50], (*LONG[:20], 5, 5, 5), LONG[7:60]]
    for number, ids in enumerate(prompts):
        assert desk.engine.state.drafting_off == ""
        desk.submit(str(number), ids, max_new_tokens=30, ignore_eos=True, temperature=0.8, seed=1)
        desk.run()
        found = desk.result(str(number)).speculation.guard
        assert found is not None and found.state == "failed" and "on purpose" in found.reason
    assert "on purpose" in desk.engine.state.drafting_off
    assert desk.engine.state.guard_switches == {("failed", "errors"): 1}
    assert Broken.calls == 6
    for number, ids in enumerate(prompts):
        alone = tiny.generate(
            list(ids), max_new_tokens=30, ignore_eos=True, temperature=0.8, seed=1
        )
        assert desk.result(str(number)).token_ids == alone.token_ids
        pieces = desk.pieces(str(number))
        assert sum((piece.token_ids for piece in pieces), ()) == alone.token_ids


class Poisoned:
    """Returns the target's rows, and NaN for texts that hold a token."""

    def __init__(self, model: Any, token: int) -> None:
        self._model, self._token = model, token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward(self, segments: Sequence[Any], want: Sequence[Any]) -> list[Any]:
        found = self._model.forward(segments, want)
        for segment, rows in zip(segments, found, strict=True):
            if self._token in segment.cache.text:
                rows.logits.fill_(torch.nan)
        return found


def test_logits_that_are_not_numbers_end_one_request(tiny: Generator) -> None:
    poisoned = Generator(
        Strategy(target=Poisoned(tiny.strategy.target, 444)),  # pyright: ignore[reportArgumentType]
        tokenizer=tiny.tokenizer,
        defaults=tiny.defaults,
    )
    desk = Desk(poisoned)
    desk.submit("bad", (30, 444, 31), max_new_tokens=5)
    desk.submit("good", LONG[:9], max_new_tokens=5, ignore_eos=True)
    desk.run()
    assert desk.ended("bad").failure == "engine_error"
    assert "NaN" in str(desk.result("bad").error)
    assert (
        desk.result("good").token_ids
        == tiny.generate(list(LONG[:9]), max_new_tokens=5, ignore_eos=True).token_ids
    )


def running(generator: Generator) -> tuple[Engine, list[Event], threading.Event]:
    events: list[Event] = []
    ended = threading.Event()

    def publish(new: Sequence[Event]) -> None:
        events.extend(new)
        if any(isinstance(event, Ended) for event in new):
            ended.set()

    engine = Engine(generator, ServingSettings(), publish=publish, costs=COSTS)
    engine.start()
    return engine, events, ended


def submission(generator: Generator, id: str, count: int) -> Submission:
    desk = Desk(generator)
    return desk.submit(id, LONG[:9], max_new_tokens=count, ignore_eos=True)


def test_a_thread_serves_and_stops(tiny: Generator) -> None:
    engine, events, ended = running(tiny)
    engine.submit(submission(tiny, "a", 5))
    assert ended.wait(20.0)
    ended.clear()
    with held(engine, 4):
        engine.submit(submission(tiny, "b", 40))
        assert until(lambda: engine.state.running == 1)
        engine.stop("closing")
    assert not engine.alive
    [last] = [e for e in events if isinstance(e, Ended) and e.id == "b"]
    assert (last.failure, last.message) == ("draining", "closing")
    assert engine.state.dead == "stopped"


def test_an_error_that_ends_the_thread_is_told_to_every_request(
    tiny: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, events, ended = running(tiny)
    monkeypatch.setattr(engine, "_fit", lambda: 1 / 0)
    engine.submit(submission(tiny, "a", 5))
    assert ended.wait(20.0)
    engine.stop()
    [last] = [e for e in events if isinstance(e, Ended)]
    assert last.failure == "engine_error"
    assert "ZeroDivisionError" in engine.state.dead


COPIES = {
    "lookup": lambda: Lookup(min_ngram=1),
    "sam": Sam,
    "suffix": Suffix,
    "successors": Successors,
    "iad": Aggressive,
}


@pytest.mark.parametrize("drafter", COPIES)
def test_a_prediction_is_copied_and_changes_no_text(tiny: Generator, drafter: str) -> None:
    own: dict[str, Any] = {"max_new_tokens": 40, "ignore_eos": True}
    expected = tiny.generate(list(LONG[:9]), **own).token_ids
    accepted = {}
    for prediction in ((), expected[3:]):
        gen = Generator(
            Strategy(target=tiny.strategy.target, drafter=COPIES[drafter]()),
            tokenizer=tiny.tokenizer,
            defaults=tiny.defaults,
        )
        desk = Desk(gen)
        desk.submit("p", LONG[:9], _prediction=prediction, **own)
        desk.run()
        assert desk.result("p").token_ids == expected
        accepted[bool(prediction)] = desk.result("p").speculation.target.accepted
    assert accepted[True] > accepted[False]


class Notes:
    """A learner that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.worked = threading.Event()
        self.rounds, self.seen, self.closed = 0, 0, 0

    @property
    def counts(self) -> dict[str, int]:
        return {"updates": len(self.texts)}

    def swap(self) -> None:
        self.rounds += 1

    def observe(self, requests: Sequence[Request], verified: Sequence[Verified]) -> None:
        self.seen += sum(len(one.verdict.emitted) for one in verified)

    def note(self, request: Request) -> None:
        self.texts.append((request.prompt.token_ids, tuple(request.output)))

    def close(self) -> None:
        self.closed += 1

    def work(self, seconds: float) -> bool:
        if self.texts:
            self.worked.set()
        return False


def test_a_learner_hears_of_finished_texts_and_works_while_nothing_is_served(
    tiny: Generator,
) -> None:
    notes = Notes()
    engine = Engine(tiny, publish=lambda events: None, costs=COSTS, learner=notes)
    engine.start()
    engine.submit(submission(tiny, "a", 5))
    assert notes.worked.wait(20.0)
    engine.stop()
    [(prompt, output)] = notes.texts
    assert prompt == LONG[:9]
    assert len(output) == 5
    assert notes.rounds >= notes.seen == 5
    assert notes.closed == 1
    assert engine.state.counters["learner_updates"] == 1


def test_a_request_without_drafts_is_not_drafted_beside_others(tiny: Generator) -> None:
    gen = Generator(
        Strategy(target=tiny.strategy.target, drafter=Lookup(min_ngram=1)),
        tokenizer=tiny.tokenizer,
        defaults=tiny.defaults,
    )
    desk = Desk(gen)
    for name, draft in (("plain", False), ("drafted", True)):
        desk.submit(name, (5, 6, 7) * 9, max_new_tokens=40, ignore_eos=True, _draft=draft)
    desk.run()
    assert desk.result("plain").speculation.target.drafted == 0
    assert desk.result("drafted").speculation.target.drafted > 0
    assert desk.result("plain").token_ids == desk.result("drafted").token_ids


@pytest.mark.parametrize("stops", [("q", "HING", "FGH"), ("zz",)])
def test_the_stop_string_that_ended_a_text_is_named(
    tiny: Generator, stops: tuple[str, ...]
) -> None:
    desk = Desk(tiny)
    desk.submit("s", LONG[:30], max_new_tokens=60, ignore_eos=True, stop=stops)
    desk.run()
    whole = tiny.generate(list(LONG[:30]), max_new_tokens=60, ignore_eos=True).text
    found = [(whole.find(stop), stop) for stop in stops if stop in whole]
    assert desk.ended("s").stop == (min(found)[1] if found else None)
    assert bool(found) == (stops != ("zz",))
