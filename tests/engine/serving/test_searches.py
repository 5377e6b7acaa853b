"""Searches beside other requests, on an engine whose steps the tests run."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import pytest

import outrider
from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.serving.drafting import LEAST_ROWS
from outrider.engine.serving.jobs import Beside, SearchJob
from outrider.engine.serving.messages import Submission
from outrider.engine.serving.searches import SearchingEngine
from outrider.engine.serving.settings import ServingSettings
from outrider.protocols import Segment
from outrider.search import Limits, SearchResult
from outrider.search.account import SearchStoppedError
from outrider.search.steps.transfer_q import TransferQ
from tests.engine.serving.setups import COSTS, written

LONG = tuple(range(20, 420))
STRATEGIES = {
    "beam": "beam(num_beams=3)",
    "passages": "best-of-n(samples=3)",
    "hidden states": "contrastive",
    "another cache": "transfer-q(branches=2, lookahead=2)",
}


@pytest.fixture(scope="module")
def tiny() -> Generator:
    return outrider.load("tiny", threads=1, drafter="lookup", policy="fixed", dtype="int8")


class Forwards:
    """The rows of each forward of the target."""

    def __init__(self, generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        target = type(generator.strategy.target)
        forward = target.forward

        def counted(model: Any, segments: Sequence[Segment], want: Any) -> Any:
            unread = [0 if s.cache.fed else len(s.cache.pending) for s in segments]
            self.rows.append(sum(unread) + sum(len(s.tokens) for s in segments))
            return forward(model, segments, want)

        monkeypatch.setattr(target, "forward", counted)


def plain(result: SearchResult) -> dict[str, Any]:
    """The result without its time."""
    return {k: v for k, v in result.to_dict().items() if k != "seconds"}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("rows", [1, 7, 398, 1000])
def test_a_prompt_that_is_read_in_parts_gives_the_same_result(
    tiny: Generator, monkeypatch: pytest.MonkeyPatch, name: str, rows: int
) -> None:
    prompt = LONG[: 40 if rows == 1 else 400]
    options: dict[str, Any] = {"seed": 4, "max_new_tokens": 6}
    if name == "another cache":
        options["scorer"] = len
    whole = tiny.search(STRATEGIES[name], prompt, **options)
    asked: list[int] = []
    forwards = Forwards(tiny, monkeypatch)

    def most() -> int:
        asked.append(rows)
        return rows

    parts = tiny.search(STRATEGIES[name], prompt, prompt_rows=most, **options)
    assert plain(parts) == plain(whole)
    needed = -(-(len(prompt) - 1) // rows)
    assert len(asked) == needed
    assert sum(forwards.rows[:needed]) == len(prompt) - 1
    assert max(forwards.rows[:needed]) <= rows


def test_a_second_model_reads_the_prompt_in_parts_too(
    tiny: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned = outrider.load("tiny", threads=1, mode="none", dtype="int8").strategy.target
    forwards = Forwards(tiny, monkeypatch)

    def found(**more: Any) -> SearchResult:
        search = TransferQ(branches=2, lookahead=2, aligned=aligned)
        options: dict[str, Any] = {"seed": 4, "max_new_tokens": 6, "scorer": len}
        return tiny.search(search, LONG, **options, **more)

    parts = found(prompt_rows=lambda: 50)
    assert max(forwards.rows) == 50
    assert plain(parts) == plain(found())


def test_a_prompt_of_one_token_needs_no_part(tiny: Generator) -> None:
    found = tiny.search("beam", (30,), prompt_rows=lambda: 1 // 0, max_new_tokens=3, seed=1)
    assert plain(found) == plain(tiny.search("beam", (30,), max_new_tokens=3, seed=1))


def test_a_search_ends_between_parts_of_its_prompt(tiny: Generator) -> None:
    parts: list[int] = []

    def rows() -> int:
        parts.append(10)
        return 10

    with pytest.raises(SearchStoppedError, match="cancelled"):
        tiny.search("beam", LONG, prompt_rows=rows, cancelled=lambda: len(parts) == 3)
    assert len(parts) == 3
    with pytest.raises(SearchStoppedError, match="seconds"):
        tiny.search("beam", LONG, prompt_rows=rows, budget=Limits(seconds=1e-9))
    assert len(parts) == 3


def test_a_prompt_of_embeddings_is_read_at_once(tiny: Generator) -> None:
    ids = LONG[:20]
    embed = tiny.strategy.target.embed
    assert embed is not None
    prompt = Prompt(token_ids=ids, embeddings=embed(ids))
    found = tiny.search("beam", prompt, prompt_rows=lambda: 1 // 0, max_new_tokens=3)
    assert found.text == tiny.search("beam", ids, max_new_tokens=3).text


class Engine:
    """An engine without a thread, and requests that it writes."""

    def __init__(self, generator: Generator, **settings: Any) -> None:
        self.generator = generator
        self.engine = SearchingEngine(
            generator, ServingSettings(**settings), publish=lambda events: None, costs=COSTS
        )

    def writes(self, id: str) -> None:
        """Let a request write without an end."""
        params = self.generator.params(max_new_tokens=400, ignore_eos=True, seed=1)
        prompt = Prompt(token_ids=(30, 31))
        self.engine.submit(Submission(id=id, prompt=prompt, params=params, draft=False))
        self.engine.step()


def job(run: Callable[[Beside], SearchResult], **more: Any) -> SearchJob:
    return SearchJob(run=run, begin_by=perf_counter() + 60, **more)


def test_others_write_while_a_prompt_of_a_search_is_read(
    tiny: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Engine(tiny, step_ms=0.001)
    engine = served.engine
    served.writes("other")
    before = written(engine)
    parts: list[int] = []
    forwards = Forwards(tiny, monkeypatch)

    def search(beside: Beside) -> SearchResult:
        def rows() -> int:
            parts.append(written(engine))
            return beside.rows()

        return tiny.search(
            "beam", LONG, cancelled=beside.ends, prompt_rows=rows, max_new_tokens=1, seed=1
        )

    asked = job(search)
    engine.search(asked)
    engine.step()
    assert max(forwards.rows) == LEAST_ROWS
    own = tiny.search("beam", LONG, max_new_tokens=1, seed=1)
    assert plain(asked.result.result(0)) == plain(own)
    assert len(parts) == -(-(len(LONG) - 1) // LEAST_ROWS)
    steps = [b - a for a, b in zip([before, *parts], parts, strict=False)]
    assert min(steps) >= 1, "a part was read before the other request wrote"


def test_the_parts_are_as_long_as_those_of_other_requests(tiny: Generator) -> None:
    """The more of them write, the fewer rows of a prompt fit into the time of a step."""
    served = Engine(tiny)
    found: list[int] = []

    def search(beside: Beside) -> SearchResult:
        found.append(beside.rows())
        return SearchResult(candidates=(), strategy="none")

    engine = served.engine
    for number in range(12):
        served.writes(str(number))
    drafting = engine._drafting
    engine.search(job(search))
    engine.step()
    writing = list(engine._samples.values())
    assert len(writing) == 12
    assert found == [drafting.rows_for_reading(writing)]
    assert LEAST_ROWS < found[0] < drafting.rows_for_reading([])
