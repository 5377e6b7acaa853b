"""The guard in sessions: it changes speed only, and errors of a drafter end drafting."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from outrider.core.counters import Counters
from outrider.core.types import Budget, Draft, as_ids
from outrider.decoding import Session, generate
from outrider.decoding.generation import Generation
from outrider.decoding.session import kind_of
from outrider.drafters import ModelDrafter, NoDrafter, TokenRecycling
from outrider.drafters.combine.pearl import Pearl
from outrider.policies.guard import Guard
from outrider.protocols import Drafter
from tests.exactness.setups.rigs import (
    PROMPTS,
    generation,
    outputs,
    run,
    stage,
    tabular_family,
)

FAMILY = tabular_family(seed=5)
MODEL = ModelDrafter(model=FAMILY.draft)


@dataclass(frozen=True)
class Always:
    """A policy that adapts by name only."""

    adaptive = True

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        return Budget.chain(3)


class Random(Guard):
    """Lets rounds draft at random."""

    def drafts(self, batch: int, kind: Any, *args: Any) -> bool:
        kind()
        return bool(np.random.default_rng(self._rounds).random() < 0.5)


def guarded(drafter: Drafter, guard: Guard | None, **options: Any) -> list[Generation]:
    whole = replace(stage(FAMILY.target, drafter), policy=Always())
    found = [generation(prompt, **options) for prompt in PROMPTS]
    for _ in generate(whole, found, guard=guard):
        pass
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize(
    "drafter", [MODEL, TokenRecycling(), Pearl(drafter=MODEL)], ids=["model", "recycling", "pearl"]
)
def test_whatever_the_guard_decides_the_text_is_that_of_undrafted_decoding(
    drafter: Drafter, temperature: float
) -> None:
    options = {"temperature": temperature, "max_new_tokens": 40}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options)
    mixed = guarded(drafter, Random(), **options)
    assert outputs(mixed) == outputs(plain)
    assert all(g.counters.undrafted_rounds for g in mixed)
    assert sum(g.counters.drafted for g in mixed)


@dataclass
class Clock:
    """Time passes in forwards, and in drafting."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


@dataclass(frozen=True, kw_only=True)
class Slow(ModelDrafter):
    """A draft model that takes its time."""

    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0

    def propose(self, *args: Any) -> list[Draft]:
        self.clock.now += self.seconds
        return super().propose(*args)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    for module in ("session", "ledger", "deferred"):
        monkeypatch.setattr(f"outrider.decoding.{module}.perf_counter", own)
    return own


def test_a_slow_drafter_is_switched_off_and_the_text_stays(clock: Clock) -> None:
    options = {"temperature": 0.9, "max_new_tokens": 60}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options)
    guard = Guard()
    slow = guarded(Slow(model=FAMILY.draft, clock=clock, seconds=0.1), guard, **options)
    assert outputs(slow) == outputs(plain)
    assert "off" in guard.states.values() and guard.switches == {("off", "slow"): 1}
    drafted = sum(g.counters.rounds - g.counters.undrafted_rounds for g in slow)
    assert 0 < drafted <= 12 * len(PROMPTS)
    fast = Guard()
    quick = guarded(Slow(model=FAMILY.draft, clock=clock), fast, **options)
    assert outputs(quick) == outputs(plain)
    assert set(fast.states.values()) == {"on"} and not fast.switches


def test_seconds_of_reading_by_the_drafter_are_not_those_of_a_round(clock: Clock) -> None:
    class Reading(ModelDrafter):
        def begin(self, *args: Any) -> Any:
            clock.now += 1000.0
            return super().begin(*args)

    seen: list[float] = []

    class Noting(Guard):
        def note(self, batch: int, asked: bool, seconds: float, tokens: float) -> None:
            seen.append(seconds)
            super().note(batch, asked, seconds, tokens)

    guard = Noting()
    guarded(Reading(model=FAMILY.draft), guard, max_new_tokens=60)
    assert clock.now > 1000.0 and min(seen) > 0.0 and max(seen) < 1.0
    assert guard.report.state == "on"


def test_what_the_guard_is_told(clock: Clock) -> None:
    seen: list[tuple[int, bool, int]] = []

    class Noting(Guard):
        def note(self, batch: int, asked: bool, seconds: float, tokens: float) -> None:
            seen.append((batch, asked, int(tokens)))
            assert 0.0 < seconds < 1.0

    found = guarded(MODEL, Noting(judges=False), max_new_tokens=20)
    assert sum(tokens for *_, tokens in seen) == sum(len(g.output) for g in found)
    assert len(seen) == max(g.counters.rounds for g in found)
    assert {batch for batch, *_ in seen} <= set(range(1, len(PROMPTS) + 1))
    assert seen[0][:2] == (len(PROMPTS), True)


def test_kinds_of_requests() -> None:
    cold, warm = generation((1,), temperature=0.0), generation((1,), temperature=0.5)
    assert kind_of([cold, cold]) == "greedy"
    assert kind_of([warm, cold]) == "greedy; sampled"


# -- errors ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Failing(TokenRecycling):
    """A drafter that learns, and raises in one of its methods from a call on."""

    method: str = "propose"
    after: int = 2
    calls: list[str] = field(default_factory=list)

    def _count(self, method: str) -> None:
        self.calls.append(method)
        if method == self.method and self.calls.count(method) > self.after:
            raise ZeroDivisionError("on purpose")

    def begin(self, *args: Any) -> Any:
        self._count("begin")
        return super().begin(*args)

    def propose(self, *args: Any) -> list[Draft]:
        self._count("propose")
        return super().propose(*args)

    def observe(self, *args: Any) -> None:
        self._count("observe")
        super().observe(*args)

    def commit(self, *args: Any) -> None:
        self._count("commit")
        super().commit(*args)


@pytest.mark.parametrize("method", ["begin", "propose", "observe", "commit"])
def test_a_drafter_that_raises_changes_no_text(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    after = 0 if method == "begin" else 2
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, temperature=0.9)
    guard, drafter = Guard(judges=False), Failing(method=method, after=after)
    with caplog.at_level(logging.ERROR, "outrider.guard"):
        found = guarded(drafter, guard, temperature=0.9)
    assert outputs(found) == outputs(plain)
    assert guard.errors == 1 and len(caplog.records) == 1
    assert all("on purpose" in (g.open_sequence.off or "") for g in found)
    assert drafter.calls[-1] == method, "it is not called again"
    with pytest.raises(ZeroDivisionError):
        guarded(Failing(method=method, after=after), None, temperature=0.9)


def test_after_three_errors_nothing_is_drafted() -> None:
    guard, drafter = Guard(judges=False), Failing(after=0)  # no rounds are undrafted by the clock
    for number in range(5):
        session = Session(replace(stage(FAMILY.target, drafter), policy=Always()), guard)
        text = generation((1, 2, 3), max_new_tokens=8)
        session.add([text])
        while session.pending:
            session.step()
        assert guard.errors == min(number + 1, 3)
    assert drafter.calls.count("propose") == 3
    assert guard.given_up and guard.report.state == "failed"


def test_the_next_turn_begins_anew_after_an_error() -> None:
    guard, drafter = Guard(judges=False), Failing(after=2)
    whole = replace(stage(FAMILY.target, drafter), policy=Always())
    [first] = [generation((1, 2, 3), max_new_tokens=10)]
    for _ in generate(whole, [first], guard=guard):
        pass
    assert first.open_sequence.off
    object.__setattr__(drafter, "after", 10**6)
    turn = generation((1, 2, 3, *first.output, 4), max_new_tokens=10)
    for _ in generate(whole, [turn], [first.sequence], guard):
        pass
    assert turn.open_sequence.off is None and turn.counters.drafted > 0


def test_an_error_of_work_beside_the_forward_ends_drafting() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Beside(ModelDrafter):
        def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
            def work() -> None:
                raise ZeroDivisionError("on purpose")

            budgets[0].meanwhile(work)
            return super().propose(states, tails, budgets)

    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, temperature=0.9)
    guard = Guard(judges=False)
    assert outputs(guarded(Beside(model=FAMILY.draft), guard, temperature=0.9)) == outputs(plain)
    assert guard.errors == 1
    with pytest.raises(ZeroDivisionError):
        guarded(Beside(model=FAMILY.draft), None, temperature=0.9)


MALFORMED: dict[str, list[Draft]] = {
    "too few": [],
    "forward": [Draft(tokens=as_ids((5, 6)), parents=as_ids((1, -1)), sources=("x",) * 2)],
    "itself": [Draft(tokens=as_ids((5,)), parents=as_ids((0,)), sources=("x",))],
    "before": [Draft(tokens=as_ids((5,)), parents=as_ids((-2,)), sources=("x",))],
    "parents": [Draft(tokens=as_ids((5, 6)), parents=as_ids((-1,)), sources=("x",) * 2)],
    "floats": [Draft(tokens=np.array([1.5]), parents=as_ids((-1,)), sources=("x",))],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_draft_is_an_error_of_the_drafter(name: str) -> None:
    class Malformed(ModelDrafter):
        def propose(self, states: Sequence, *args: Any) -> list[Draft]:
            return MALFORMED[name] * len(states)

    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, temperature=0.9)
    guard = Guard(judges=False)
    found = guarded(Malformed(model=FAMILY.draft), guard, temperature=0.9)
    assert outputs(found) == outputs(plain) and guard.errors == 1
    with pytest.raises(ValueError):
        guarded(Malformed(model=FAMILY.draft), None, temperature=0.9)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_error_of_the_drafter(error: type[BaseException]) -> None:
    class Interrupted(ModelDrafter):
        def propose(self, *args: Any) -> list[Draft]:
            raise error

    guard = Guard()
    with pytest.raises(error):
        guarded(Interrupted(model=FAMILY.draft), guard)
    assert guard.errors == 0
