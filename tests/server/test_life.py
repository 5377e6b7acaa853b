"""Health, draining, and an engine that dies."""

import dataclasses
import threading
import time
from typing import Any

import pytest

from outrider.engine.generator import Generator
from outrider.server.client import EngineClient
from outrider.server.life import Life
from outrider.server.serve import drain
from outrider.server.settings import ServerSettings
from tests.server.setups import CHAT, HELLO, LONG, QUICK, Running, running, until


def test_all_is_well(served: Running) -> None:
    for path in ("/live", "/health", "/ready"):
        assert served.get(path).json == {"status": "ok"}


def test_a_draining_server_refuses_new_work_and_ends_what_runs(generator: Generator) -> None:
    with running(generator) as served:
        answers: list[Any] = []
        body = LONG | {"max_tokens": 120}
        thread = threading.Thread(target=lambda: answers.append(served.post(CHAT, body)))
        thread.start()
        assert until(lambda: served.context.client.open == 1)
        served.context.life.draining = True
        refused = served.post(CHAT, QUICK)
        assert refused.status == 503 and refused.error["code"] == "draining"
        assert int(refused.headers["retry-after"]) >= 1
        assert served.get("/ready").status == 503 and served.get("/health").status == 200
        assert served.get("/live").status == 200
        thread.join()
        assert answers[0].status == 200
        assert answers[0].json["usage"]["completion_tokens"] == 120


def test_what_does_not_end_in_time_gets_an_error(generator: Generator) -> None:
    import asyncio

    settings = ServerSettings(model_names=("tiny",), shutdown_timeout=0.0)
    with running(generator, settings) as served:
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda b=body: answers.append(served.post(CHAT, b)))
            for body in (LONG, LONG | {"stream": True})
        ]
        for thread in threads:
            thread.start()
        assert until(lambda: served.engine.state.counters.get("generation_tokens", 0) > 20)
        served.context.life.draining = True
        asyncio.run(drain(served.context))
        for thread in threads:
            thread.join()
        whole, stream = sorted(answers, key=lambda a: -a.status)
        assert whole.status == 503 and whole.error["code"] == "draining"
        *_, error, done = stream.frames
        assert '"code":"draining"' in error and done == "data: [DONE]"


class Broken(Exception):
    """An error in the engine thread."""


def test_an_engine_that_dies_ends_all_requests(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(generator) as served:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(served.post(CHAT, LONG)))
        thread.start()
        assert until(lambda: served.engine.state.counters.get("generation_tokens", 0) > 4)

        def broken() -> None:
            raise Broken("no more memory")

        monkeypatch.setattr(served.engine, "step", broken)
        thread.join()
        assert answers[0].status == 500 and answers[0].error["code"] == "engine_error"
        assert "no more memory" in answers[0].error["message"]
        assert until(lambda: bool(served.engine.state.dead))
        for path in ("/health", "/ready"):
            sick = served.get(path)
            assert sick.status == 503 and sick.error["code"] == "engine_error"
        assert served.get("/live").status == 200
        assert served.post(CHAT, QUICK).status == 503


def test_requests_of_an_engine_that_dies_silently_are_failed(served: Running) -> None:
    assert served.idle()
    client = EngineClient()
    client.attach(_Silent())
    [box] = [client.submit([_submission(served)])]
    client.fail("gone")
    assert not client.open and box.open == 0


class _Silent:
    """An engine that does nothing."""

    generator: Any = None
    state: Any = None

    def start(self) -> None: ...

    def submit(self, submission: object) -> None: ...

    def cancel(self, id: str) -> None: ...

    def capacity_for(self, tokens: int) -> bool:
        return True

    def stop(self, message: str = "") -> None: ...


def _submission(served: Running) -> Any:
    from outrider.engine.serving.checked import checked
    from outrider.engine.serving.messages import Submission

    prompt = served.context.generator.prompt(HELLO)
    params = checked(served.context.generator, prompt, {})
    return Submission(id="a", prompt=prompt, params=params)


def test_an_engine_without_steps_is_stalled_only_while_work_waits(served: Running) -> None:
    assert served.idle()
    client = EngineClient()
    engine = _Silent()
    now = time.perf_counter()
    engine.state = dataclasses.replace(served.engine.state, heartbeat=now - 1000, slowest_step=0.1)
    client.attach(engine)
    life = Life(client)
    assert life.sick() is None and client.heartbeat_age == 0.0
    client.submit([_submission(served)])
    assert life.sick() is None  # it has had no time yet
    client.busy_since = now - 100
    sick = life.sick()
    assert sick is not None and sick.code == "engine_stalled" and sick.status == 503
    engine.state = dataclasses.replace(engine.state, slowest_step=10.0)
    assert life.sick() is None
