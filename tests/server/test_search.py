"""`/v1/search`: strategies, scorers of the operator, limits, and requests beside a search."""

import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from outrider.cli.app import main
from outrider.engine.generator import Generator
from outrider.engine.serving.drafting import LEAST_ROWS
from outrider.engine.serving.jobs import SearchJob, SearchNotRunError
from outrider.search import FunctionScorer
from outrider.server.keys import Key, Keys
from outrider.server.searches.settings import SearchSettings
from outrider.server.settings import ServerSettings
from tests.engine.serving.setups import until
from tests.server.setups import CHAT, Running, running

SEARCH = "/v1/search"
BEAM = {"model": "tiny", "search": "beam(num_beams=3)", "prompt": "Once upon a time"}


def slow(text: str) -> float:
    time.sleep(0.2)
    return float(len(text))


@pytest.fixture(scope="module")
def searched(generator: Generator) -> Iterator[Running]:
    scorers = {
        "long": FunctionScorer(len),
        "broken": FunctionScorer(lambda text: 1 / 0),
        "slow": FunctionScorer(slow),
    }
    allowed = ServerSettings(model_names=("tiny",), searches=SearchSettings(scorers=scorers))
    with running(generator, allowed) as found:
        yield found


def test_a_search_is_that_of_the_library(searched: Running, generator: Generator) -> None:
    answer = searched.post(SEARCH, BEAM | {"max_tokens": 12, "n": 2}).json
    own = generator.search("beam(num_beams=3)", "Once upon a time", max_new_tokens=12)
    texts = [one["text"] for one in answer["candidates"]]
    assert texts == [one.text for one in own.candidates][:2]
    assert answer["object"] == "search" and answer["strategy"] == "beam"
    assert answer["usage"]["completion_tokens"] == own.tokens == answer["tokens"]
    again = searched.post(SEARCH, BEAM | {"max_tokens": 12, "n": 2}).json
    assert [one["score"] for one in again["candidates"]] == [
        one["score"] for one in answer["candidates"]
    ]


def test_messages_and_a_scorer(searched: Running) -> None:
    body = {
        "model": "tiny",
        "search": "best-of-n(samples=3)",
        "messages": [{"role": "user", "content": "Hello"}],
        "scorer": "long",
        "seed": 3,
        "max_tokens": 10,
        "n": 3,
    }
    answer = searched.post(SEARCH, body).json
    assert [one["score"] for one in answer["candidates"]] == sorted(
        (len(one["text"]) for one in answer["candidates"]), reverse=True
    )
    assert answer["scorer_calls"] == 3 and answer["seed"] == 3


def test_a_limit_keeps_what_was_found(searched: Running) -> None:
    answer = searched.post(SEARCH, BEAM | {"budget_tokens": 10, "max_tokens": 40}).json
    assert "limit of 10 computed tokens" in answer["stopped"]
    assert answer["candidates"]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"search": "beem"}, 400, "Did you mean 'beam'?"),
        ({"search": "beam("}, 400, "search"),
        ({"search": "beam(num_beams=4096)"}, 400, "Give at most 1024"),
        ({"search": "beam(num_beams=0)"}, 400, "num_beams is 0"),
        ({"search": "gfd(model=smollm2)"}, 400, "model names a model, and requests load none"),
        ({"scorer": "file.py:f"}, 400, "unknown scorer 'file.py:f'. Known here: long"),
        ({"search": "icn", "budget_tokens": 1}, 422, "limit of 1"),
        ({"search": "exact-extract", "prompt": "\n\n"}, 422, "exact-extract found no text"),
        ({"search": "superposed(corpus=/etc/passwd)"}, 400, "would read files of the server"),
        ({"search": "superposed(corpus=/nowhere)"}, 400, "would read files of the server"),
        ({"prompt": None}, 400, "give either prompt or messages"),
        ({"stream": True}, 400, "stream is not supported"),
        ({"n": 1000}, 400, "Give at most 16"),
        ({"model": "other"}, 404, "does not exist here"),
        ({"prompt": "a " * 3000}, 400, ""),
    ],
)
def test_wrong_requests_are_one_line(
    searched: Running, change: dict[str, Any], status: int, message: str
) -> None:
    answer = searched.post(SEARCH, BEAM | change)
    assert answer.status == status, answer.json
    found = answer.json["error"]["message"]
    assert message in found and "\n" not in found


def test_a_scorer_that_fails_keeps_what_was_written(searched: Running) -> None:
    answer = searched.post(SEARCH, BEAM | {"search": "best-of-n", "scorer": "broken"})
    assert answer.status == 200
    assert "the scorer <lambda> failed" in answer.json["stopped"]


def test_searches_must_be_allowed(served: Running) -> None:
    answer = served.post(SEARCH, BEAM)
    assert answer.status == 400
    assert "without --allow-search" in answer.json["error"]["message"]


def test_other_requests_go_on_beside_a_search(searched: Running) -> None:
    """Their texts are those without a search."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Tell me about a dog."}],
        "max_tokens": 24,
        "seed": 1,
        "temperature": 0,
    }
    alone = searched.post(CHAT, body).json["choices"][0]["message"]["content"]
    answers: list[Any] = []
    long = BEAM | {"search": "beam(num_beams=16)", "max_tokens": 400}
    other = threading.Thread(target=lambda: answers.append(searched.post(SEARCH, long)))
    other.start()
    during = [searched.post(CHAT, body).json for _ in range(3)]
    ended_before = not answers
    other.join()
    assert answers[0].status == 200
    assert [one["choices"][0]["message"]["content"] for one in during] == [alone] * 3
    assert ended_before, "the search had ended before any of the other requests"


def test_a_long_prompt_is_read_in_parts(
    searched: Running, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = type(generator.strategy.target)
    forward, most = target.forward, [0]

    def watched(model: Any, segments: Any, want: Any) -> Any:
        most[0] = max(most[0], *(len(one.cache.pending) for one in segments))
        return forward(model, segments, want)

    body = BEAM | {"prompt": "Once upon a time " * 40, "max_tokens": 4}
    alone = searched.post(SEARCH, body).json["candidates"]
    monkeypatch.setattr(target, "forward", watched)
    monkeypatch.setattr(searched.engine._drafting, "step", 1e-6)
    parts = searched.post(SEARCH, body)
    assert parts.json["candidates"] == alone
    assert parts.json["usage"]["prompt_tokens"] > 2 * LEAST_ROWS >= 2 * most[0] > 0


def test_a_search_belongs_to_its_key(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is told who asks, of which class, and for how much; a full queue is a 429."""
    keys = Keys((Key(name="poor", digest=sha256(b"secret").digest(), priority=2),))
    allowed = ServerSettings(model_names=("tiny",), searches=SearchSettings())
    found: list[SearchJob] = []
    with running(generator, allowed, keys) as one:
        take = one.engine.search

        def noted(job: SearchJob, places: int | None = None) -> bool:
            found.append(job)
            return len(found) == 1 and take(job, places)

        monkeypatch.setattr(one.engine, "search", noted)
        one.headers["authorization"] = "Bearer secret"
        answer = one.post(SEARCH, BEAM | {"max_tokens": 4, "user": "x"})
        assert answer.status == 200
        assert one.post(SEARCH, BEAM).status == 429
    asked = answer.json["usage"]
    assert [(job.principal, job.level) for job in found] == [("poor", 2)] * 2
    assert (found[0].prompt, found[0].most) == (asked["prompt_tokens"], 4)
    assert one.engine._scheduler.paid == {"poor": asked["total_tokens"]}


def test_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        ("--search-scorer", "a=length:3"): "without --allow-search",
        ("--allow-search", "--search-scorer", "length:3"): "Give NAME=SCORER",
        ("--allow-search", "--search-scorer", "a=luck"): "the scorer is 'luck'",
        ("--allow-search", "--search-seconds", "0"): "seconds is 0",
        ("--allow-search", "--replicas", "2"): "replicas",
    }
    for options, message in wrong.items():
        assert main(["serve", "--target", "tiny", *options]) == 2
        assert message in capsys.readouterr().err


def test_a_search_that_nobody_waits_for_keeps_no_place(searched: Running) -> None:
    long = BEAM | {"search": "beam(num_beams=16)", "max_tokens": 400}
    sockets = [searched.opened(long, SEARCH) for _ in range(8)]
    assert until(lambda: searched.engine.searches == 8)
    assert searched.post(SEARCH, BEAM | {"max_tokens": 4}).status == 429
    for one in sockets:
        one.close()
    assert until(lambda: searched.engine.searches == 0)
    begun = time.perf_counter()
    assert searched.post(SEARCH, BEAM | {"max_tokens": 4}).status == 200
    assert time.perf_counter() - begun < 20.0


@pytest.mark.parametrize(
    "strategy", ["a(" * 400, "momentum(table=(1,99999))", "best-of-n(samples=1000)"]
)
def test_what_would_take_the_machine_is_refused(searched: Running, strategy: str) -> None:
    answer = searched.post(SEARCH, BEAM | {"search": strategy, "prompt": "word " * 120})
    assert answer.status in (400, 422), answer.body
    assert "\n" not in answer.json["error"]["message"]


def test_a_cancelled_answer_does_not_end_the_engine(searched: Running) -> None:
    """As when the server closes while a search runs."""
    job = SearchJob(run=lambda engine: 1 / 0, begin_by=time.perf_counter() + 60)  # type: ignore[arg-type]
    job.result.cancel()
    searched.engine.search(job)
    assert until(lambda: searched.engine.searches == 0)
    late = SearchJob(run=lambda engine: 1 / 0, begin_by=0.0)  # type: ignore[arg-type]
    searched.engine.search(late)
    with pytest.raises(SearchNotRunError, match="waited too long"):
        late.result.result(20)
    assert searched.post(SEARCH, BEAM | {"max_tokens": 4}).status == 200
