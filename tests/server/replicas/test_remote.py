"""Requests on several replicas: texts stay equal when replicas die, drain or return."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import Any

import pytest

import outrider
from outrider.context.config import ContextConfig
from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.prompt_size import places_of
from outrider.engine.serving.checked import checked
from outrider.engine.serving.messages import Event, Piece, Submission
from tests.engine.serving.setups import held, until
from tests.server.replicas.setups import QUICK, Front, Local, front

PROMPT = tuple(range(20, 60))
LONG: dict[str, Any] = {"max_new_tokens": 60, "ignore_eos": True, "seed": 5, "temperature": 1.0}


@pytest.fixture(scope="module")
def pair() -> list[Generator]:
    """Two models that draft in fixed lengths, whatever this machine makes of it."""
    return [
        outrider.load("tiny", threads=1, dtype="int8", drafter="lookup", policy="fixed")
        for _ in range(2)
    ]


@pytest.fixture(scope="module")
def alone() -> Generator:
    return outrider.load("tiny", threads=1, dtype="int8", mode="none")


def when_written(found: Front, count: int, act: Callable[[Local], None]) -> threading.Event:
    """Act once, on the replica of the newest event, when so many tokens have been delivered.

    Set before a request is sent, so that it cannot end before.
    """
    done = threading.Event()
    seen = 0

    def look(event: Event) -> None:
        nonlocal seen
        seen += len(event.token_ids) if isinstance(event, Piece) else 0
        if seen >= count and not done.is_set():
            done.set()
            act(found.place(event.id))

    found.hooks.append(look)
    return done


def test_a_killed_replica_changes_no_text(pair: list[Generator], alone: Generator) -> None:
    prompts = [tuple(range(20 + at, 60 + at)) for at in range(4)]
    singles = [alone.generate(list(ids), **LONG, logprobs=2) for ids in prompts]
    with front(pair) as found:
        done = when_written(found, 60, lambda _: found.replicas["engine-0"].kill())
        ids = [found.submit(prompt, **LONG, logprobs=2) for prompt in prompts]
        ends = [found.ended(id) for id in ids]
        assert done.is_set()
        assert all(found.replicas[name].served for name in ("engine-0", "engine-1"))
        assert any(id.endswith(".1") for id in found.replicas["engine-1"].served)
        for id, end, single in zip(ids, ends, singles, strict=True):
            assert end.failure == ""
            assert end.result is not None and end.result.token_ids == single.token_ids
            assert found.ids(id) == single.token_ids
            assert found.text(id) == single.text == end.result.text
            pieces = found.pieces(id)
            assert tuple(one for p in pieces for one in p.logprobs) == single.logprobs
            assert "".join(text for p in pieces for text, _ in p.spans) == single.text
            assert sum(len(p.sources) for p in pieces) == len(single.token_ids)
            assert tuple(e for p in pieces for e in p.ends) == single.ends


def test_a_grammar_travels_with_its_request(pair: list[Generator], alone: Generator) -> None:
    given: dict[str, Any] = {"regex": "[a-z]{20,40}!", "max_new_tokens": 60, "seed": 2}
    single = alone.generate(list(PROMPT), **given)
    with front(pair) as found:
        done = when_written(found, 2, lambda place: place.kill())
        id = found.submit(PROMPT, **given)
        assert found.ended(id).failure == "" and done.is_set()
        assert found.text(id) == single.text
        wrong = found.ended(found.submit(PROMPT, regex="(?=a)b"))
        assert wrong.failure == "invalid_request" and "look-around" in wrong.message


def test_samples_of_a_request_are_continued_together(
    pair: list[Generator], alone: Generator
) -> None:
    singles = alone.generate(list(PROMPT), n=3, **LONG)
    with front(pair) as found:
        when_written(found, 60, Local.kill)
        id = found.submit(PROMPT, n=3, **LONG, _score_prompt=1)
        for index, single in enumerate(singles):
            assert found.ended(id, index).failure == ""
            assert found.ids(id, index) == single.token_ids
            assert found.text(id, index) == single.text
        scores = [p.prompt_logprobs for p in found.pieces(id) if p.prompt_logprobs is not None]
        assert [len(one) for one in scores] == [len(PROMPT)]


def test_an_engine_that_dies_is_replaced(pair: list[Generator], alone: Generator) -> None:
    single = alone.generate(list(PROMPT), **LONG)
    with front(pair) as found:

        def broken() -> None:
            raise MemoryError

        when_written(found, 20, lambda place: setattr(place.engine, "step", broken))
        id = found.submit(PROMPT, **LONG)
        assert found.ended(id).failure == ""
        assert found.ids(id) == single.token_ids and found.text(id) == single.text
        other = found.submit(PROMPT, **LONG)
        assert found.ended(other).failure == ""
        assert sorted(len(one.served) for one in found.replicas.values()) == [1, 2]


def test_a_replica_that_drains_ends_what_it_has(pair: list[Generator]) -> None:
    with front(pair) as found:
        drained: list[Local] = []

        def drain(place: Local) -> None:
            place.host.drain()
            drained.append(place)

        done = when_written(found, 1, drain)
        id = found.submit(PROMPT, **LONG)
        assert done.wait(60.0)
        [place] = drained
        later = [found.submit(PROMPT, **LONG) for _ in range(2)]
        assert all(found.ended(one).failure == "" for one in (id, *later))
        assert place.served[0] == id and len({found.ids(one) for one in (id, *later)}) == 1
        assert until(lambda: found.engine.state.running == 0)
        before = list(place.served)
        assert found.ended(found.submit(PROMPT, **LONG)).failure == ""
        assert place.served == before


def test_what_a_replica_cannot_end_while_it_drains_runs_elsewhere(
    pair: list[Generator], alone: Generator
) -> None:
    """The begin of a stop string is held back, and must not be released when a replica stops."""
    single = alone.generate(list(PROMPT), **LONG)
    start, end = single.ends[30], single.ends[55]
    stop = [single.text[start:end]]
    with front(pair) as found:
        when_written(found, 40, lambda place: place.host.stop())
        id = found.submit(PROMPT, **LONG, stop=stop)
        ended = found.ended(id)
        assert (ended.failure, ended.stop) == ("", stop[0])
        assert found.ids(id) == single.token_ids[: len(found.ids(id))]
        assert found.text(id) == single.text[:start]
        assert len([one for one in found.replicas.values() if one.served]) == 2


def test_a_replica_that_writes_another_text_ends_the_request(pair: list[Generator]) -> None:
    with front(pair) as found:

        def change(place: Local) -> None:
            [request] = found.engine._requests.values()
            params = replace(request.submission.params, seed=6)
            request.submission = replace(request.submission, params=params)
            place.kill()

        when_written(found, 20, change)
        end = found.ended(found.submit(PROMPT, **LONG))
        assert end.failure == "engine_error" and "another text" in end.message
        [other] = [one for one in found.replicas.values() if not one.killed]
        assert until(lambda: not other.engine.busy)  # its stream was closed


def test_a_lost_replica_returns(pair: list[Generator]) -> None:
    with front(pair) as found:
        first = found.replicas["engine-0"]
        assert found.ended(found.submit(PROMPT, **LONG)).failure == ""
        assert until(lambda: found.engine.state.counters.get("generation_tokens", 0) >= 60)
        before = found.engine.state
        first.kill()
        assert until(lambda: found.engine.state.cache_size < before.cache_size)
        assert found.engine.state.counters["generation_tokens"] >= 60
        first.restart()
        assert until(lambda: found.engine.state.cache_size == before.cache_size)
        assert found.engine.state.counters["generation_tokens"] >= 60
        served = len(first.served)
        ids = [found.submit(tuple(range(at, at + 9)), **LONG) for at in range(20, 60, 10)]
        assert all(found.ended(id).failure == "" for id in ids)
        assert len(first.served) > served


def test_requests_wait_for_a_replica_and_give_up(pair: list[Generator]) -> None:
    settings = replace(QUICK, wait=0.2, give_up=0.5)
    with front(pair[:1], settings) as found:
        [only] = found.replicas.values()
        only.kill()
        assert until(lambda: found.engine.state.cache_size == 0)
        end = found.ended(found.submit(PROMPT, **LONG))
        assert end.failure == "engine_error" and "no replica" in end.message
        late = found.ended(found.submit(PROMPT, **LONG, _finish_by=perf_counter() + 0.1))
        assert late.failure == "request_timeout"
        first = found.ended(found.submit(PROMPT, **LONG, _first_token_by=perf_counter() + 0.1))
        assert first.failure == "deadline"
        full = found.ended(found.submit(PROMPT, **LONG, _begin_by=perf_counter() + 0.1))
        assert full.failure == "queue_timeout"
        found.engine._settings = replace(settings, wait=60.0)
        waits = found.submit(PROMPT, **LONG)
        only.restart()
        assert found.ended(waits).failure == ""
        only.kill()
        assert until(lambda: "no replica" in found.engine.state.dead)


def test_retries_are_limited(pair: list[Generator]) -> None:
    with front(pair, replace(QUICK, retries=0)) as found:
        when_written(found, 20, Local.kill)
        id = found.submit(PROMPT, **LONG)
        end = found.ended(id)
        assert end.failure == "engine_error" and "killed" in end.message and end.phase == "writing"


def test_a_cancelled_request_ends_at_its_replica(pair: list[Generator]) -> None:
    with front(pair) as found, ExitStack() as stack:
        for one in found.replicas.values():
            stack.enter_context(held(one.engine, 20))
        id = found.submit(PROMPT, **LONG)
        assert until(lambda: len(found.ids(id)) > 10)
        found.engine.cancel(id)
        result = found.ended(id).result
        assert result is not None and result.finish_reason == "cancelled"
        early = found.submit(PROMPT, **LONG)
        found.engine.cancel(early)
        assert found.ended(early).failure == ""
        assert until(lambda: not any(one.engine.busy for one in found.replicas.values()))
        assert all(one.engine.state.running == 0 for one in found.replicas.values())


def test_a_cancellation_may_arrive_before_its_request(pair: list[Generator]) -> None:
    replica = Local("engine-0", pair[0])

    async def ask() -> list[Event]:
        await replica.host.cancel("r1")
        params = pair[0].params(max_new_tokens=60)
        one = Submission(id="r1", prompt=Prompt(token_ids=PROMPT), params=params, n=2)
        return [event async for events in replica.stream(one) for event in events]

    events = asyncio.run(ask())
    assert [(e.index, e.failure) for e in events] == [(0, ""), (1, "")]  # pyright: ignore
    assert not replica.engine.busy
    replica.host.stop()


def test_stopping_ends_what_runs(pair: list[Generator]) -> None:
    with front(pair) as found, ExitStack() as stack:
        for one in found.replicas.values():
            stack.enter_context(held(one.engine, 20))
        id = found.submit(PROMPT, **LONG)
        assert until(lambda: len(found.ids(id)) > 10)
        found.engine.stop("the end")
        end = found.ended(id)
        assert (end.failure, end.message) == ("draining", "the end")
        assert found.engine.state.dead == "stopped"
        assert found.ended(found.submit(PROMPT, **LONG)).failure == "draining"
        found.engine.stop()
        assert until(lambda: not any(one.engine.busy for one in found.replicas.values()))


def test_the_window_is_that_of_the_smallest_replica(pair: list[Generator]) -> None:
    with front(pair, cache_tokens=512) as found:
        assert found.engine.capacity_for(400) and not found.engine.capacity_for(600)


def test_prompts_follow_their_beginning(pair: list[Generator]) -> None:
    with front(pair) as found:
        first = [tuple(range(at, at + 64)) for at in (20, 120)]
        ids = [found.submit(prompt, **LONG) for prompt in first]
        ends = [found.ended(id) for id in ids]
        where = [next(n for n, r in found.replicas.items() if id in r.served) for id in ids]
        assert sorted(where) == ["engine-0", "engine-1"]
        for prompt, end, name in reversed(list(zip(first, ends, where, strict=True))):
            assert end.result is not None
            turn = (*prompt, *end.result.token_ids, *range(30, 50))
            id = found.submit(turn, **LONG | {"max_new_tokens": 4})
            end = found.ended(id)
            assert id in found.replicas[name].served
            assert end.timing.cached_tokens > 100


def test_a_long_input_is_selected_again_by_its_replica() -> None:
    """Chunks are chosen by the text that is written, for which a replica needs its tokenizer."""
    config = ContextConfig(
        budget=128,
        chunk_size=16,
        selector="bm25",
        refresh=4,
        positions="compact",
        query_mix=0.0,
        hysteresis=0.0,
        max_swaps=4,
    )
    own = outrider.load("tiny", threads=1, dtype="int8", selection=config)
    names = "Music Reading Dogs Cats Food Work Family Games Movies Travel School Sports Cars Books"
    text = " ".join(f"{name} is what I like to do for fun." for name in names.split())
    prompt = own.prompt([{"role": "user", "content": "Hello"}], documents=text)
    options = {"max_new_tokens": 24, "ignore_eos": True, "seed": 5, "temperature": 1.0}
    single = own.generate(prompt, **options)
    with front([own]) as found:
        params = checked(own, prompt, options)
        places = places_of(prompt, own.strategy.target)
        found.engine.submit(Submission(id="a", prompt=prompt, params=params, places=places))
        end = found.ended("a")
    assert end.result is not None and end.result.token_ids == single.token_ids
    assert end.result.prompt_tokens == len(prompt) > places
    assert end.result.context is not None and single.context is not None
    assert end.result.context["decisions"] == single.context["decisions"]
