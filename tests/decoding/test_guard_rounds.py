"""Rounds that the guard does not compare: those that read prompts, and those of a grammar."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from outrider.core.counters import Counters
from outrider.core.types import GRAMMAR, Budget, Draft
from outrider.decoding import Session, generate
from outrider.decoding.generation import Generation
from outrider.drafters import Lookup, ModelDrafter, NoDrafter
from outrider.policies.guard import Guard, Mode
from outrider.policies.guard.phase import Phase
from outrider.policies.guard.report import State
from outrider.protocols import Drafter
from tests.constraints.automaton import Automaton
from tests.exactness.setups.rigs import generation, outputs, run, stage, tabular_family

FAMILY = tabular_family(seed=5)
MODEL = ModelDrafter(model=FAMILY.draft)
CHAIN = Automaton(
    {0: {1: 1, 2: 1}, **{i: {i % 6 + 1: i + 1} for i in range(1, 12)}}, frozenset({12})
)
"""Two tokens may begin, and the others are certain."""


@dataclass(frozen=True)
class Always:
    """A policy that adapts by name only."""

    adaptive = True

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        return Budget.chain(3)


@dataclass(slots=True, kw_only=True)
class Noting(Guard):
    """Keeps what it is asked and told."""

    allows: bool = True
    measured: list[bool] = field(default_factory=list[bool])
    noted: int = 0

    def drafts(
        self, batch: int, kind: Callable[[], str], measured: bool = True, context: float = 0.0
    ) -> bool:
        self.measured.append(measured)
        return self.allows

    def note(self, batch: int, asked: bool, seconds: float, tokens: float) -> None:
        self.noted += 1


def whole(drafter: Drafter) -> Any:
    return replace(stage(FAMILY.target, drafter), policy=Always())


def read_beside(guard: Guard, rounds: int = 12) -> int:
    """Return the tokens that are drafted while each round reads a part of a prompt."""
    session, drafted = Session(whole(MODEL), guard), 0
    session.add([generation((1, 2, 3), max_new_tokens=100)])
    session.add([generation((1, 2, 3, 4) * 8, max_new_tokens=2)], chunk=2)
    for _ in range(rounds):
        session.step()
        drafted += session.drafted
    assert len(session.generations) == 1, "the prompt is still being read"
    return drafted


@pytest.mark.parametrize("mode", ["on", "warn"])
def test_rounds_that_read_prompts_are_not_undrafted_for_a_comparison(mode: Mode) -> None:
    guard = Guard(mode=mode)
    assert read_beside(guard) > 0
    assert guard._rounds == 0 and guard._watch(1).phase is Phase.OPEN


def test_while_drafting_is_off_rounds_that_read_prompts_are_undrafted() -> None:
    guard = Guard()
    watch = guard._watch(1)
    for phase in (Phase.OFF, Phase.PROBE, Phase.CHECK):
        watch.phase, watch.state = phase, State.OFF
        assert read_beside(guard) == 0 and watch.phase is phase
    watch.phase, watch.state, watch.allowance.left = Phase.OPEN, State.ON, 0.0
    assert read_beside(guard) == 0, "no loss may be risked"


def constrained(drafter: Drafter, guard: Guard | None) -> Generation:
    [found] = [generation((1, 2), end_ids=(0,), grammar=CHAIN, logprobs=0)]
    for _ in generate(whole(drafter), [found], guard=guard):
        pass
    return found


def test_rounds_of_a_grammar_are_not_compared() -> None:
    guard = Noting()
    found = constrained(Lookup(), guard)
    forced = guard.measured.count(False)
    assert forced and guard.noted == found.counters.rounds - forced


@dataclass(frozen=True, kw_only=True)
class Raising(Lookup):
    """A drafter with an error."""

    def propose(self, *args: Any) -> list[Draft]:
        raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize("error", [False, True])
def test_tokens_of_a_grammar_are_drafted_while_the_drafter_is_off(error: bool) -> None:
    options: dict[str, Any] = {"end_ids": (0,), "grammar": CHAIN, "logprobs": 0}
    plain = run(stage(FAMILY.target, NoDrafter()), [(1, 2)], **options)
    guard = Guard() if error else Noting(allows=False)
    if error:  # rounds of the comparison would not call it
        guard.judges = False
    found = constrained(Raising(min_ngram=1) if error else Lookup(), guard)
    assert outputs([found]) == outputs(plain)
    assert guard.errors == error and bool(found.open_sequence.off) is error
    assert found.counters.tallies[GRAMMAR].accepted > 0
    assert found.counters.rounds < plain[0].counters.rounds
