"""Queues, timeouts, keys and origins."""

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import openai
import pytest

from outrider.core.errors import OptionError
from outrider.engine.generator import Generator
from outrider.engine.serving.settings import ServingSettings
from outrider.server.keys import Key, Keys, load_keys
from outrider.server.serve import Address, listen
from outrider.server.settings import ServerSettings
from tests.engine.serving.setups import held, until, written
from tests.server.setups import CHAT, LONG, QUICK, Running, running


@pytest.fixture(scope="module")
def narrow(generator: Generator) -> Iterator[Running]:
    """A server that runs one sample and lets one wait, for clients with keys."""
    settings = ServerSettings(
        model_names=("tiny",),
        max_queue=1,
        max_queued_tokens=40,
        queue_timeout=600.0,
        request_timeout=1000.0,
        first_token_timeout=300.0,
        hold=60.0,
        cors_origins=("https://a.example",),
    )
    found = Keys((_key("ana", "secret-a"), _key("bo", "secret-b", requests_per_minute=2.0)))
    engine = ServingSettings(max_num_seqs=1)
    with running(generator, settings, found, engine) as served:
        served.headers["authorization"] = "Bearer secret-a"
        yield served


def _key(name: str, secret: str, **more: float) -> Key:
    return Key(name=name, digest=hashlib.sha256(secret.encode()).digest(), **more)  # pyright: ignore


def test_a_full_queue_answers_429(narrow: Running) -> None:
    with held(narrow.engine, 4) as engine, stream_of(narrow):
        second = narrow.asked(QUICK)
        assert until(lambda: narrow.context.client.open == 2)
        assert narrow.context.client.unread_tokens == 7
        answer = narrow.post(CHAT, QUICK)
        assert answer.status == 429 and answer.error["code"] == "queue_full"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.error["type"] == "rate_limit_error"
        engine.later(400)  # the first token of the first request is written, that of the second not
        late = second.result()
        assert late.status == 504 and late.error["code"] == "deadline"
    assert narrow.idle()


def test_a_request_that_waits_too_long(narrow: Running) -> None:
    with held(narrow.engine, 4) as engine, stream_of(narrow):
        second = narrow.asked(QUICK)
        assert until(lambda: narrow.context.client.open == 2)
        engine.later(700)
        late = second.result()
        assert late.status == 429 and late.error["code"] == "queue_full"
        assert int(late.headers["retry-after"]) == 5
    assert narrow.idle()


def test_tokens_of_waiting_prompts_are_limited(narrow: Running) -> None:
    assert narrow.idle()
    long = QUICK | {"messages": [{"role": "user", "content": "word " * 60}]}
    assert narrow.post(CHAT, long).status == 200  # alone it is let in
    client = narrow.context.client
    client._unread["other"] = 10  # as if another prompt waited
    try:
        assert narrow.post(CHAT, long).error["code"] == "queue_full"
        assert narrow.post(CHAT, QUICK).status == 200
    finally:
        del client._unread["other"]


def test_a_request_that_takes_too_long(narrow: Running) -> None:
    assert narrow.idle()
    before = written(narrow.engine)
    with held(narrow.engine, 4) as engine:
        answer = narrow.asked(LONG)
        assert until(lambda: written(narrow.engine) > before)  # it does not wait any more
        engine.later(1100)
        assert answer.result().status == 408
        assert answer.result().error["code"] == "request_timeout"
    with held(narrow.engine, 4) as engine, stream_of(narrow) as stream:
        engine.later(1100)
        *_, error, done, _ = stream.read().decode().split("\n\n")
        assert '"code":"request_timeout"' in error and done == "data: [DONE]"


def test_keys_are_needed_except_for_health(narrow: Running) -> None:
    kept = dict(narrow.headers)
    narrow.headers.clear()
    try:
        for path in ("/health", "/live", "/ready"):
            assert narrow.get(path).status == 200
        for path in ("/metrics", "/v1/models", "/load", "/version", "/openapi.json"):
            answer = narrow.get(path)
            assert answer.status == 401 and answer.error["code"] == "invalid_api_key"
            assert "secret" not in answer.error["message"]
        wrong = narrow.post(CHAT, QUICK, authorization="Bearer secret-c")
        assert wrong.status == 401
        assert narrow.get("/v1/models", x_api_key="secret-b").status == 200
    finally:
        narrow.headers.update(kept)


def test_a_key_has_a_rate(narrow: Running) -> None:
    narrow.context.keys._spent.clear()
    states = [narrow.get("/version", authorization="Bearer secret-b").status for _ in range(4)]
    assert states == [200, 200, 429, 429]
    answer = narrow.get("/version", authorization="Bearer secret-b")
    assert answer.error["code"] == "rate_limit" and 1 <= int(answer.headers["retry-after"]) <= 60
    assert narrow.get("/version").status == 200


def test_the_official_client_reports_the_errors(narrow: Running) -> None:
    with openai.OpenAI(base_url=narrow.url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as raised:
            client.models.list()
        assert raised.value.code == "invalid_api_key"


def test_only_listed_origins_may_call(narrow: Running, served: Running) -> None:
    head = {"access_control_request_method": "POST"}
    good = narrow.send("OPTIONS", CHAT, None, {"origin": "https://a.example", **head})
    assert good.status == 200
    assert good.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-credentials" not in good.headers
    bad = narrow.send("OPTIONS", CHAT, None, {"origin": "https://b.example", **head})
    assert bad.status == 400 and "access-control-allow-origin" not in bad.headers
    answer = narrow.get("/version", origin="https://a.example", authorization="Bearer no")
    assert answer.status == 401 and "access-control-allow-origin" in answer.headers
    plain = served.get("/version", origin="https://a.example")
    assert "access-control-allow-origin" not in plain.headers


def test_keys_from_a_file_and_the_environment(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"two").hexdigest()
    file = tmp_path / "keys.toml"
    file.write_text(f'[ana]\nkey = "one"\nclass = 1\n[bo]\nsha256 = "{digest}"\n')
    keys = load_keys(file, {"OUTRIDER_API_KEYS": "three, cy=four"})
    assert [key.name for key in keys.keys] == ["ana", "bo", "key1", "cy"]
    found = [keys.find(secret) for secret in ("one", "two", "three", "four", "five", "")]
    assert [key and key.name for key in found] == ["ana", "bo", "key1", "cy", None, None]
    assert keys.keys[0].priority == 1
    assert not load_keys(None, {})


def test_a_key_may_hold_equals_signs() -> None:
    """The name ends at the first one, as keys in base64 end with some."""
    keys = load_keys(None, {"OUTRIDER_API_KEYS": "ana=c2VjcmV0LWE=,bo=a=b=="})
    for secret, name in (("c2VjcmV0LWE=", "ana"), ("a=b==", "bo")):
        found = keys.find(secret)
        assert found is not None and found.name == name
    assert keys.find("c2VjcmV0LWE") is None and keys.find("b==") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "[a]\n", "[a]\nkey = 1\n", '[a]\nkey = ""\n', '[a]\nsha256 = "12"\n', "a = 1\n"),
        *("[a\n", '[a]\nkey = "x"\nextra = 1\n', '[a]\nkey = "x"\nclass = "y"\n'),
    ],
)
def test_wrong_files_of_keys(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(OptionError) as raised:
        load_keys(file, {})
    assert "\n" not in str(raised.value)


def test_names_of_keys_are_unique(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="two keys"):
        load_keys(None, {"OUTRIDER_API_KEYS": "a=1,a=2"})
    with pytest.raises(OptionError, match="cannot be read"):
        load_keys(tmp_path / "none.toml", {})


def test_other_machines_need_keys() -> None:
    Address(host="127.0.0.1").check(keys=False)
    Address(host="0.0.0.0").check(keys=True)
    Address(host="0.0.0.0", insecure=True).check(keys=False)
    with pytest.raises(OptionError, match="without keys"):
        Address(host="0.0.0.0").check(keys=False)
    with pytest.raises(OptionError, match="no effect"):
        Address(host="127.0.0.1", insecure=True).check(keys=False)


def test_a_taken_port_is_reported() -> None:
    """Also before the other server listens, which begins when its models are loaded."""
    with Address(port=0).bind() as bound:
        port = bound.getsockname()[1]
        for begin in (lambda: None, lambda: listen(bound)):
            begin()
            with pytest.raises(OptionError) as raised:
                Address(port=port).bind()
            expected = f"port {port} is already in use. Choose another with --port"
            assert str(raised.value) == expected


def test_of_two_servers_at_one_port_the_second_is_refused_in_one_line() -> None:
    """The port had connections that have ended, so that both could bind it."""
    with Address(port=0).bind() as first:
        listen(first)
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            first.accept()[0].close()  # the side that closes first keeps the port for a while
            assert client.recv(1) == b""
    with (
        Address(port=port).bind() as one,
        pytest.raises(OptionError, match=f"port {port} is already in use"),
        Address(port=port).bind() as other,
    ):
        listen(one)
        listen(other)


def test_a_host_that_does_not_exist_is_reported() -> None:
    with pytest.raises(OptionError, match=r"cannot listen at 192\.0\.2\.1:"):
        Address(host="192.0.2.1", port=0).bind()


def test_the_rate_of_a_key_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("outrider.server.keys.monotonic", lambda: now)
    keys = Keys((_key("a", "x", requests_per_minute=60.0),))
    [key] = keys.keys
    assert [keys.wait(key) for _ in range(61)][-2:] == [0.0, 1.0]
    now += 1.5
    assert keys.wait(key) == 0.0 and keys.wait(key) > 0


def test_the_status_of_a_stream_waits_for_the_first_token(narrow: Running) -> None:
    assert narrow.idle()
    with held(narrow.engine, 4) as engine, stream_of(narrow):
        answer = narrow.asked(QUICK | {"stream": True})
        assert until(lambda: narrow.context.client.open == 2)
        engine.later(400)
        assert answer.result().status == 504 and answer.result().error["code"] == "deadline"
    assert narrow.idle()


def test_a_stream_that_waits_longer_begins_with_comments(generator: Generator) -> None:
    settings = ServerSettings(
        model_names=("tiny",),
        hold=0.05,
        ping=0.05,
        queue_timeout=600.0,
        first_token_timeout=300.0,
    )
    with (
        running(generator, settings) as served,
        held(served.engine, 0) as engine,
        stream_of(served) as stream,
    ):
        pings = b": ping\n\n: ping\n\n"
        assert stream.read(len(pings)) == pings
        engine.later(400)
        frames = stream.read().decode().split("\n\n")
        error, done, _ = [frame for frame in frames if not frame.startswith(":")]
        assert '"code":"deadline"' in error and done == "data: [DONE]"


@contextmanager
def stream_of(served: Running) -> Iterator[HTTPResponse]:
    """Context manager: a request that writes for as long as the engine is held; its stream has
    begun. The client leaves at the end."""
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=120)) as connection:
        head = {"content-type": "application/json", **served.headers}
        connection.request("POST", CHAT, json.dumps(LONG | {"stream": True}), head)
        answer = connection.getresponse()
        assert answer.status == 200
        yield answer
