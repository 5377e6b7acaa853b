"""Which search runs next, who pays for it, and whose search gives up its place."""

from collections.abc import Sequence
from time import perf_counter

import pytest

import outrider
from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.serving.jobs import (
    Beside,
    SearchJob,
    SearchNotRunError,
    next_job,
    replaced_for,
)
from outrider.engine.serving.messages import Submission
from outrider.engine.serving.scheduler import EXPECTED, Entry, Limits, Scheduler
from outrider.engine.serving.searches import SearchingEngine
from outrider.search import SearchResult
from tests.engine.serving.setups import COSTS

PATIENCE = 10.0


@pytest.fixture(scope="module")
def tiny() -> Generator:
    return outrider.load("tiny", threads=1, mode="none")


@pytest.fixture
def engine(tiny: Generator) -> SearchingEngine:
    return SearchingEngine(tiny, publish=lambda events: None, costs=COSTS)


def result(tokens: int = 0) -> SearchResult:
    return SearchResult(candidates=(), strategy="none", tokens=tokens)


def job(principal: str, arrived: float = 0.0, level: int = 0, begun: bool = False) -> SearchJob:
    return SearchJob(
        run=lambda engine: result(),
        begin_by=arrived + 1e9,
        principal=principal,
        arrived=arrived,
        level=level,
        begun=begun,
    )


def test_the_next_search_is_that_of_who_has_paid_the_least() -> None:
    a, b, c = job("a", 0.0), job("b", 1.0), job("b", 2.0)
    paid = {"a": 5, "b": 3}
    assert next_job([a, c, b], 3.0, paid, PATIENCE) is b
    assert next_job([a, c, b], 3.0, {"b": 1}, PATIENCE) is a
    assert next_job([a, c, b], 3.0, {}, PATIENCE) is a
    better = job("a", 2.5, level=-1)
    assert next_job([a, b, better], 3.0, paid, PATIENCE) is better
    a.begun = True
    assert next_job([a], 3.0, paid, PATIENCE) is None


def test_a_search_that_waits_gains_classes() -> None:
    poor, rich = job("poor", 5.0), job("rich", 0.0)
    paid = {"rich": 1000}
    assert next_job([rich, poor], 9.9, paid, PATIENCE) is poor
    assert next_job([rich, poor], 10.0, paid, PATIENCE) is rich
    behind = job("poor", 0.0, level=1)
    assert next_job([rich, behind], 10.0, paid, PATIENCE) is rich


def some(principal: str, count: int, first: float = 0.0, level: int = 0) -> list[SearchJob]:
    return [job(principal, first + i, level) for i in range(count)]


@pytest.mark.parametrize(
    ("others", "principal", "level", "expected"),
    [
        (some("a", 8), "a", 0, None),  # a principal alone waits for its own
        (some("a", 8), "b", 0, 7),
        (some("a", 4) + some("b", 4, 4.0), "b", 0, None),  # it has its share
        (some("a", 5) + some("b", 3, 5.0), "b", 0, 4),
        (some("a", 5) + some("b", 3, 5.0), "c", 0, 4),  # of who has the most
        (some("a", 3) + some("b", 3, 3.0) + some("c", 2, 6.0), "c", 0, None),
        (some("a", 3) + some("b", 3, 3.0) + some("c", 2, 6.0), "d", 0, 5),
        (some("a", 8, level=-1), "b", 0, None),  # a better class gives way to none
        (some("a", 8, level=-1), "b", -1, 7),
        (some("a", 6, level=-1) + some("b", 2, 6.0), "c", 0, None),  # b has not more than its share
        (some("a", 4) + some("a", 4, 4.0, level=-1), "b", 0, 3),
    ],
)
def test_whose_search_gives_up_its_place(
    others: Sequence[SearchJob], principal: str, level: int, expected: int | None
) -> None:
    found = replaced_for(job(principal, 9.0, level), others, 8)
    assert found is (None if expected is None else others[expected])


def test_a_search_that_runs_keeps_its_place() -> None:
    [first, last] = job("a", 0.0), job("a", 1.0, begun=True)
    assert replaced_for(job("b", 2.0), [first, last], 2) is first
    first.begun = True
    assert replaced_for(job("b", 2.0), [first, last], 2) is None


class Order:
    """The searches that an engine has run."""

    def __init__(self, engine: SearchingEngine) -> None:
        self.engine = engine
        self.names: list[str] = []

    def ask(self, principal: str, tokens: int = 100, level: int = 0, **more: int) -> SearchJob:
        def run(beside: Beside) -> SearchResult:
            self.names.append(principal)
            beside.ends()
            return result(tokens)

        one = SearchJob(
            run=run, begin_by=perf_counter() + 60, principal=principal, level=level, **more
        )
        self.engine.search(one)
        return one

    def run(self) -> str:
        while self.engine.searches:
            self.engine.step()
        return "".join(self.names)


def test_a_principal_with_many_searches_delays_its_own(engine: SearchingEngine) -> None:
    order = Order(engine)
    for principal in "aaaabbc":
        order.ask(principal)
    assert order.run() == "abcabaa"


def test_who_comes_during_a_search_is_next(engine: SearchingEngine) -> None:
    order = Order(engine)

    def run(beside: Beside) -> SearchResult:
        order.ask("a")
        order.ask("b")
        beside.ends()  # the engine sees them
        return result(10)

    engine.search(SearchJob(run=run, begin_by=perf_counter() + 60, principal="a"))
    assert order.run() == "ba"


def test_accounts_stay_when_nobody_searches(engine: SearchingEngine) -> None:
    order = Order(engine)
    for principal in "aaa":
        order.ask(principal)
    order.run()
    engine.step()
    for principal in "abbbb":
        order.ask(principal)
    assert order.run() == "aaa" + "bbbab"


def test_a_newcomer_cannot_claim_the_time_before(engine: SearchingEngine) -> None:
    """It begins with what the least served of those who search or write has received."""
    order, paid = Order(engine), engine._scheduler.paid
    order.ask("a", 1000)
    engine.step()
    engine.step()
    order.ask("a")
    engine._look()
    order.ask("b")
    engine._look()
    assert paid == {"a": 1000, "b": 1000}
    order.run()
    engine.step()
    params = engine.generator.params(max_new_tokens=300, ignore_eos=True)
    for name, prompt in (("c", (30,) * 60), ("d", (30, 31))):
        given = Prompt(token_ids=prompt)
        engine.submit(Submission(id=name, prompt=given, params=params, principal=name))
    engine.step()
    engine.step()
    order.ask("e")
    engine._look()
    assert 0 < paid["e"] == engine._scheduler._received("d") < engine._scheduler._received("c")


def test_searches_and_other_requests_are_paid_from_one_account(engine: SearchingEngine) -> None:
    order, paid = Order(engine), engine._scheduler.paid
    order.ask("a", tokens=70, prompt=20)
    order.run()
    assert paid == {"a": 90}

    def broken(beside: Beside) -> SearchResult:
        raise ValueError("broken")

    for most in (5, 10_000):
        one = SearchJob(
            run=broken, begin_by=perf_counter() + 60, principal="a", prompt=20, most=most
        )
        engine.search(one)
        engine.step()
        with pytest.raises(ValueError, match="broken"):
            one.result.result(0)
    assert paid == {"a": 90 + 25 + 20 + EXPECTED}
    before = paid["a"]
    params = engine.generator.params(max_new_tokens=3, ignore_eos=True)
    prompt = Prompt(token_ids=(30, 31))
    engine.submit(Submission(id="x", prompt=prompt, params=params, principal="a"))
    while engine.busy:
        engine.step()
    assert before < engine._scheduler.paid["a"] <= before + 5


def test_other_requests_wait_behind_paid_searches() -> None:
    """The scheduler of samples sees what searches have cost."""
    scheduler = Scheduler(limits=Limits(max_num_seqs=1))
    scheduler.add(Entry(key="a", principal="a", arrived=0.0))
    scheduler.add(Entry(key="b", principal="b", arrived=1.0))
    scheduler.charge("a", 1)
    chosen = scheduler.next(2.0, 1 << 20)
    assert chosen is not None and chosen.key == "b"


def test_a_search_that_is_replaced_is_refused(engine: SearchingEngine) -> None:
    order = Order(engine)
    jobs = [order.ask("a") for _ in range(3)]
    new = SearchJob(run=lambda beside: result(), begin_by=perf_counter() + 60, principal="b")
    further = SearchJob(run=lambda beside: result(), begin_by=perf_counter() + 60, principal="a")
    assert not engine.search(further, places=3)
    assert engine.searches == 3
    assert engine.search(new, places=3)
    assert engine.searches == 3
    assert order.run() == "aa"
    with pytest.raises(SearchNotRunError, match="place"):
        jobs[2].result.result(0)
    assert all(one.result.result(0) == result(100) for one in jobs[:2])
    assert new.result.result(0) == result() and not further.begun
    begun = job("a", begun=True)
    begun.replaced = True  # it had begun when it was chosen
    assert begun.has_place
