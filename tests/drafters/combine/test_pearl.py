"""PEARL: its schedule, against the paper's figures; blocks drafted ahead equal those drafted
afterwards; nothing runs between two rounds."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.errors import StrategyError
from outrider.core.types import (
    NO_IDS,
    BoolArray,
    Budget,
    Draft,
    FinishReason,
    IntArray,
    Rows,
    as_ids,
)
from outrider.decoding import Session
from outrider.decoding.wrapping import WrappedDrafter
from outrider.drafters import (
    EvenSkip,
    Fallback,
    Lookup,
    ModelDrafter,
    NoDrafter,
    Pearl,
    Qualified,
    TokenRecycling,
    TreeDrafter,
)
from outrider.drafters.given import Costs, Given
from outrider.drafters.neural.growth import Eagle2
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.policies import CostSurface, FixedLength, FixedTree, Source
from outrider.protocols import Drafter, DraftPolicy, Request, Segment
from outrider.strategy.catalogue import drafter_record
from outrider.testing.drafters import Audited
from tests.exactness.setups.rigs import (
    PROMPTS,
    check_counters,
    generation,
    outputs,
    run,
    stage,
    tabular_family,
)

pytestmark = [pytest.mark.method("pearl"), pytest.mark.usefixtures("unchecked")]

FAMILY = tabular_family()
MODEL = ModelDrafter(model=FAMILY.draft)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "outrider-beside"]


# -- the schedule, on a virtual clock ------------------------------------------------------------


@dataclass
class Clock:
    """Seconds of the models in one round: in turn with the target, and beside it."""

    target: float = 0.0
    in_turn: float = 0.0
    beside: float = 0.0

    def draft(self, seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            self.in_turn += seconds
        else:
            self.beside += seconds

    def round(self) -> float:
        """Seconds of the round that has ended."""
        seconds = self.in_turn + max(self.target, self.beside)
        self.target = self.in_turn = self.beside = 0.0
        return seconds


class Counting(TabularModel):
    """Counts up: the token after t is t + 1, modulo 7. A forward takes `seconds`."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__(torch.eye(7, dtype=torch.float64).roll(1, 1) * 9)
        self.clock, self.seconds = clock, seconds

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        self.clock.target += self.seconds
        return super().forward(segments, want)


@dataclass(frozen=True)
class Coin(NoDrafter):
    """Drafts the right token at each place whose coin shows heads, in one second a token."""

    name: str = "coin"
    heads: BoolArray = field(default_factory=lambda: np.ones(0, dtype=np.bool_))
    clock: Clock = field(default_factory=Clock)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[Any] | None = None
    ) -> list[Any]:
        return list(requests)

    def propose(
        self, states: Sequence[Any], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        return [self._chain(*parts) for parts in zip(states, tails, budgets, strict=True)]

    def _chain(self, request: Request, tail: IntArray, budget: Budget) -> Draft:
        start = len(request.output) + len(tail)
        places = np.arange(start, start + budget.depth)
        self.clock.draft(float(budget.depth))
        wrong = ~self.heads[places]
        return Draft(
            tokens=(places + 1 + 3 * wrong) % 7,
            parents=as_ids(range(-1, budget.depth - 1)),
            sources=(self.name,) * budget.depth,
        )


def heads(chance: float, count: int) -> BoolArray:
    return np.random.default_rng(7).random(count) < chance


def paper(found: BoolArray, g: int) -> Iterator[int]:
    """Tokens of each round of the paper's schedule; the coins say which drafts are right."""
    place, post = 0, False
    while True:
        good = list(found[place : place + (g if post else 1)])
        right = good.index(False) if False in good else len(good)
        post = right == len(good)
        written = len(good) if post else right + 1
        yield written
        place += written


def rounds(drafter: Callable[[Coin], Drafter], found: BoolArray, window: int, target: float) -> Any:
    """Tokens and virtual seconds of each round."""
    clock = Clock()
    coin = Coin(heads=found, clock=clock)
    session = Session(stage(Counting(clock, target), drafter(coin), window=window))
    one = generation((0,), max_new_tokens=len(found) - 20)
    session.add([one])
    clock.round()  # the target has read the prompt
    before = 0
    while session.pending:
        session.step()
        yield len(one.output) - before, clock.round()
        before = len(one.output)
    assert one.output == [(i + 1) % 7 for i in range(len(one.output))]


@pytest.mark.parametrize(("a", "g"), [(0.8, 4), (0.8, 6), (0.9, 6)])
def test_pearl_writes_as_many_tokens_a_round_as_the_paper_says(a: float, g: int) -> None:
    """Round by round the paper's schedule, whose mean is its formula."""
    pi = a / (1 + a - a**g)
    expected = (1 - pi) + pi * (1 - a**g) / (1 - a)
    many = list(islice(paper(heads(a, 200_000), g), 40_000))
    assert np.mean(many) == pytest.approx(expected, rel=0.01)
    found = heads(a, 500)
    ours = [tokens for tokens, _ in rounds(lambda coin: Pearl(drafter=coin), found, g - 1, g)]
    assert len(ours) > 100
    assert ours[:-8] == list(islice(paper(found, g), len(ours) - 8))


@pytest.mark.parametrize(("target", "g"), [(4.0, 4), (9.0, 4), (2.0, 5)])
def test_a_pearl_round_is_never_slower_than_the_slower_model(target: float, g: int) -> None:
    """The slower of one forward of the target and g tokens of the drafter."""
    seconds = [
        s for _, s in rounds(lambda coin: Pearl(drafter=coin), heads(0.8, 200), g - 1, target)
    ]
    assert max(seconds) == max(target, g)
    assert min(seconds[:-8]) == max(target, g), "a block is drafted in every round"


def test_pearl_beats_the_serial_schedule_where_both_models_take_equally_long() -> None:
    """Spec: at a = .8 and g = c = 4, 2.12 tokens in the time of a forward against 1.68."""
    speeds = []
    for drafter, window in ((lambda coin: Pearl(drafter=coin), 3), (lambda coin: coin, 4)):
        found = list(rounds(drafter, heads(0.8, 600), window, 4.0))
        speeds.append(4 * sum(t for t, _ in found) / sum(s for _, s in found))
    assert speeds == pytest.approx([2.12, 1.68], rel=0.1)


# -- blocks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Noting(Audited):
    """Notes what it is asked to draft after, with its drafts."""

    notes: list[tuple[list[int], Draft]] = field(default_factory=list)

    def propose(
        self, states: Sequence[Any], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        drafts = Audited.propose(self, states, tails, budgets)
        for state, tail, draft in zip(states, tails, drafts, strict=True):
            self.notes.append(([*state.request.output, *tail.tolist()], draft))
        return drafts


def request(output: Sequence[int] = (), **options: Any) -> Request:
    asked = generation((1, 2, 3), **options).request
    asked.output.extend(output)
    return asked


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_pearl_block_is_the_serial_draft(temperature: float) -> None:
    """Blocks are drafted after texts that are partly assumed. Each equals the draft that a new
    drafter makes after the same text once it is written."""
    noting = Noting(drafter=MODEL)
    options: dict[str, Any] = {"temperature": temperature, "max_new_tokens": 60}
    [g] = run(stage(FAMILY.target, Pearl(drafter=noting)), [(1, 2, 3)], **options)
    assert g.counters.accepted > 5
    ahead = [(text, block) for text, block in noting.notes if len(block)]
    assert any(text != g.output[: len(text)] for text, _ in ahead), "some assumed a wrong text"
    for text, block in ahead:
        states = MODEL.begin([request(text, **options)])
        MODEL.commit(states, [as_ids(text)])
        [serial] = MODEL.propose(states, [NO_IDS], [Budget.chain(len(block))])
        assert block.tokens.tolist() == serial.tokens.tolist()


@pytest.mark.parametrize("drafter", [MODEL, Qualified(drafter=MODEL, qualifier=FAMILY.qualifier)])
def test_a_pearl_block_that_is_dropped_leaves_no_trace(drafter: Drafter) -> None:
    """After each round, the drafter drafts as a new one does after the same text."""
    session = Session(stage(FAMILY.target, Pearl(drafter=drafter)))
    one = generation((1, 2, 3), temperature=0.9, max_new_tokens=20)
    session.add([one])
    while session.pending:
        session.step()
        state = one.open_sequence.state
        session.stage.drafter.settle([one.open_sequence.drafting])
        states = drafter.begin([request(one.output, temperature=0.9)])
        drafter.commit(states, [as_ids(one.output)])
        [kept], [new] = (
            drafter.propose(own, [NO_IDS], [Budget.chain(4)]) for own in ([state.inner], states)
        )
        assert kept.tokens.tolist() == new.tokens.tolist() and len(kept) == 4


TREES: dict[str, tuple[Callable[[], Drafter], DraftPolicy]] = {
    "tree": (
        lambda: Pearl(drafter=TreeDrafter(model=FAMILY.draft, growth=Eagle2(width=3))),
        FixedTree(depth=4, nodes=16),
    ),
    "below a qualifier": (
        lambda: Qualified(drafter=Pearl(drafter=MODEL), qualifier=FAMILY.qualifier),
        FixedLength(7),
    ),
    "above a pyramid": (
        lambda: Pearl(drafter=Qualified(drafter=MODEL, qualifier=FAMILY.qualifier)),
        FixedLength(5),
    ),
    "before another": (
        lambda: Fallback(first=Pearl(drafter=MODEL), second=Lookup(min_ngram=1)),
        FixedLength(4),
    ),
    "after another": (
        lambda: Fallback(first=Lookup(min_ngram=3), second=Pearl(drafter=MODEL)),
        FixedLength(4),
    ),
    "in another": (lambda: Pearl(drafter=Pearl(drafter=MODEL)), FixedLength(4)),
}


@pytest.mark.parametrize("case", TREES)
def test_pearl_in_combinations_writes_the_undrafted_text(case: str) -> None:
    make, policy = TREES[case]
    options: dict[str, Any] = {"temperature": 0.8, "max_new_tokens": 30, "end_ids": (0,)}
    drafted = run(stage(FAMILY.target, make(), policy=policy), PROMPTS, **options)
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options)
    assert outputs(drafted) == outputs(plain)
    assert sum(g.counters.accepted for g in drafted) > 3
    for g in drafted:
        check_counters(g.counters, len(g.output))


def test_pearl_drafts_no_block_that_no_round_can_use() -> None:
    noting = Noting(drafter=MODEL)
    run(stage(FAMILY.target, Pearl(drafter=noting), window=30), [(1, 2, 3)], max_new_tokens=12)
    assert all(len(text) + len(block) < 12 for text, block in noting.notes)
    [state] = Pearl(drafter=MODEL).begin([request(end_ids=(4,))])
    work: list[Any] = []
    budget = Budget(depth=3, nodes=3, meanwhile=work.append)
    state.block, state.assumed = chain(5, 6, 4, 1), NO_IDS
    state.request.output.append(5)
    [draft] = Pearl(drafter=MODEL).propose([state], [NO_IDS], [budget])
    assert draft.tokens.tolist() == [6, 4, 1] and work
    state.block, state.written = chain(5, 6, 4), 0
    [draft] = Pearl(drafter=MODEL).propose([state], [NO_IDS], [budget])
    assert draft.tokens.tolist() == [6, 4] and len(work) == 1, "4 ends the text"


def chain(*tokens: int) -> Draft:
    return Draft(
        tokens=as_ids(tokens),
        parents=as_ids(range(-1, len(tokens) - 1)),
        sources=("draft",) * len(tokens),
    )


# -- requests that end, leave or fail --------------------------------------------------------------


def test_no_thread_of_pearl_runs_between_two_rounds() -> None:
    """Whatever happens there: requests are cancelled, preempted, resumed, forked and dropped."""
    options: dict[str, Any] = {"temperature": 0.9, "max_new_tokens": 24}
    session = Session(stage(FAMILY.target, Pearl(drafter=MODEL)))
    gs = [generation(prompt, **options) for prompt in PROMPTS]
    session.add(gs)
    for _ in range(3):
        session.step()
        assert not workers()
    gs[0].cancel()
    session.preempt(gs[1])
    session.drop(session.fork(gs[2], sample=4))
    session.step()
    assert not workers() and gs[0].finish is FinishReason.CANCELLED
    session.add([gs[1]])
    while session.pending:
        session.step()
        assert not workers()
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options)
    assert outputs(gs)[1:] == outputs(plain)[1:]
    assert gs[0].output == plain[0].output[: len(gs[0].output)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing(WrappedDrafter):
    """Fails in the block after `calls` blocks."""

    calls: list[int] = field(default_factory=lambda: [2])

    def begin(self, requests: Sequence[Request], previous: Any = None) -> list[Any]:
        return list(self.drafter.begin(requests, previous))

    def propose(self, states: Any, tails: Any, budgets: Any) -> list[Draft]:
        if not self.calls[0]:
            raise MemoryError("no memory for the draft")
        self.calls[0] -= 1
        return self.drafter.propose(states, tails, budgets)

    def observe(self, states: Any, verified: Any) -> None: ...

    def commit(self, states: Any, tokens: Any) -> None:
        self.drafter.commit(states, tokens)

    def counters(self, state: Any) -> Any:
        return self.drafter.counters(state)


def test_an_error_of_a_pearl_block_reaches_the_caller() -> None:
    """In the round of the block; the drafter can begin with another request afterwards."""
    drafter = Pearl(drafter=Failing(drafter=MODEL))
    whole = stage(FAMILY.target, drafter)
    with pytest.raises(MemoryError, match="no memory for the draft"):
        run(whole, [(1, 2, 3)])
    assert not workers()
    drafter.drafter.calls[0] = 1000  # pyright: ignore[reportAttributeAccessIssue]
    [g], [plain] = (run(s, [(4,)]) for s in (whole, stage(FAMILY.target, NoDrafter())))
    assert g.output == plain.output


# -- what it can wrap ----------------------------------------------------------------------------


def test_pearl_refuses_what_reads_the_target_or_its_rows(model: Decoder) -> None:
    with pytest.raises(StrategyError, match="'recycling', which learns from every verification"):
        Pearl(drafter=TokenRecycling())
    for drafter in (
        EvenSkip(model=model),
        Fallback(first=Lookup(), second=EvenSkip(model=model)),
    ):
        with pytest.raises(StrategyError, match="reads what the target computes"):
            Pearl(drafter=drafter)


def test_the_priors_of_pearl_are_those_of_blocks() -> None:
    """g is the time of a forward divided by that of a drafted token; drafting is free up to it."""
    costs = Costs(CostSurface.of({1: 1.0, 8: 1.2}), overhead=0.0)
    inner = Source(name="draft", seconds=0.22)
    given = Given(target=FAMILY.target, costs=costs, priors_of=lambda drafter: (inner,))
    record = drafter_record("pearl")
    [source] = record.priors(record.drafter(given, [MODEL], {}), given)
    assert source == replace(inner, seconds=0.0, longest=4)
