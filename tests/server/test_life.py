"""Health, draining, and an engine that dies."""

import dataclasses
import time
from typing import Any

import pytest

from outrider.engine.generator import Generator
from outrider.server.client import EngineClient
from outrider.server.life import Life
from outrider.server.serve import drain
from outrider.server.settings import ServerSettings
from tests.engine.serving.setups import held, until, written
from tests.server.setups import CHAT, HELLO, LONG, QUICK, Running, running


def test_all_is_well(served: Running) -> None:
    for path in ("/live", "/health", "/ready"):
        assert served.get(path).json == {"status": "ok"}


def test_a_draining_server_refuses_new_work_and_ends_what_runs(generator: Generator) -> None:
    with running(generator) as served:
        with held(served.engine, 4):
            answer = served.asked(LONG | {"max_tokens": 40})
            assert until(lambda: written(served.engine) >= 4)
            served.context.life.draining = True
            refused = served.post(CHAT, QUICK)
            assert refused.status == 503 and refused.error["code"] == "draining"
            assert int(refused.headers["retry-after"]) >= 1
            assert served.get("/ready").status == 503 and served.get("/health").status == 200
            assert served.get("/live").status == 200
        assert answer.result().status == 200
        assert answer.result().json["usage"]["completion_tokens"] == 40


def test_what_does_not_end_in_time_gets_an_error(generator: Generator) -> None:
    import asyncio

    settings = ServerSettings(model_names=("tiny",), shutdown_timeout=0.0)
    with running(generator, settings) as served, held(served.engine, 20):
        asked = [served.asked(body) for body in (LONG, LONG | {"stream": True})]
        assert until(lambda: written(served.engine) >= 20 and served.engine.state.running == 2)
        served.context.life.draining = True
        asyncio.run(drain(served.context))
        whole, stream = [answer.result() for answer in asked]
        assert whole.status == 503 and whole.error["code"] == "draining"
        *_, error, done = stream.frames
        assert '"code":"draining"' in error and done == "data: [DONE]"


class Broken(Exception):
    """An error in the engine thread."""


def test_an_engine_that_dies_ends_all_requests(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(generator) as served:
        step = served.engine.step

        def broken() -> None:
            step()
            if written(served.engine) > 4:
                raise Broken("no more memory")

        monkeypatch.setattr(served.engine, "step", broken)
        answer = served.post(CHAT, LONG)
        assert answer.status == 500 and answer.error["code"] == "engine_error"
        assert "no more memory" in answer.error["message"]
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
