"""Clients that leave, read slowly or accept nothing: the engine stops, and never waits."""

import json
import socket
import struct
import time
from typing import Any

import pytest

from outrider.engine.generator import Generator
from outrider.engine.serving.settings import ServingSettings
from outrider.server.settings import ServerSettings
from tests.engine.serving.setups import held, until, written
from tests.server.setups import CHAT, COMPLETE, LONG, QUICK, Running, running

TEXT = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True}


def counted(served: Running) -> dict[str, float]:
    """Clients that left, by phase."""
    found: dict[str, float] = {}
    for metric in served.context.metrics.registry.collect():
        for sample in metric.samples:
            if sample.name == "outrider:disconnects_total":
                found[sample.labels["phase"]] = sample.value
    return found


def reset(connection: socket.socket) -> None:
    """Close a connection as a crashed client does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("rough", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [(CHAT, LONG), (COMPLETE, TEXT)])
def test_a_client_that_leaves_costs_nothing_more(
    served: Running, path: str, body: dict[str, Any], stream: bool, rough: bool
) -> None:
    assert served.idle()
    before, begun = counted(served), written(served.engine)
    with held(served.engine, 4):
        connection = served.opened(body | {"stream": stream}, path)
        assert until(lambda: written(served.engine) >= begun + 4)
        (reset if rough else socket.socket.close)(connection)
        assert served.idle()
    after = counted(served)
    assert sum(after.values()) == sum(before.values()) + 1
    assert after["writing"] == before.get("writing", 0) + 1


def test_a_client_that_leaves_the_queue(generator: Generator) -> None:
    settings = ServingSettings(max_num_seqs=1)
    limits = ServerSettings(model_names=("tiny",))
    with (
        running(generator, limits, engine_settings=settings) as served,
        held(served.engine, 4),
    ):
        first = served.opened(LONG | {"stream": True})
        assert until(lambda: served.engine.state.running == 1)
        second = served.opened(LONG)
        assert until(lambda: served.context.client.open == 2)
        second.close()
        assert until(lambda: served.context.client.open == 1)
        assert counted(served) == {"waiting": 1.0}
        first.close()
        assert served.idle()


def test_a_client_that_leaves_before_its_body_is_there(served: Running) -> None:
    assert served.idle()
    before = sum(counted(served).values())
    connection = socket.create_connection(("127.0.0.1", served.port))
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n")
    connection.sendall(b"content-type: application/json\r\n\r\n{")
    time.sleep(0.05)
    connection.close()
    assert served.post(CHAT, QUICK).status == 200
    assert sum(counted(served).values()) == before


def test_a_slow_reader_gets_everything_and_delays_nobody(generator: Generator) -> None:
    body = LONG | {"max_tokens": 80, "logprobs": True, "top_logprobs": 20}
    with running(generator, send_buffer=4096) as served:
        slow = served.opened(body | {"stream": True}, window=4096)
        assert until(lambda: written(served.engine) > 0)
        assert served.post(CHAT, QUICK).status == 200  # others are served while nobody reads
        assert served.idle()
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            part = slow.recv(65536)
            assert part, received[-200:]
            received += part
        slow.close()
        whole = served.post(CHAT, body).json
    assert len(received) > 90_000  # more than the buffers of both sides
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    text = "".join(
        choice["delta"].get("content") or ""
        for line in _unchunked(rest).decode().splitlines()
        if line.startswith("data: {")
        for choice in json.loads(line[6:])["choices"]
    )
    assert text == whole["choices"][0]["message"]["content"]


def _unchunked(data: bytes) -> bytes:
    found = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        found, data = found + data[:length], data[length + 2 :]
    return found


@pytest.mark.parametrize("by_system", [False, True])
def test_a_client_that_accepts_nothing_is_cut_off(generator: Generator, by_system: bool) -> None:
    """By the server, and by the system where the server does not notice it."""
    limits = ServerSettings(model_names=("tiny",), send_timeout=60.0 if by_system else 0.3)
    system = 0.3 if by_system else 60.0
    with (
        running(generator, limits, connection_timeout=system, send_buffer=4096) as served,
        held(served.engine, 100),  # with their logprobs, more than the buffers of both sides
    ):
        body = LONG | {"stream": True, "logprobs": True, "top_logprobs": 20, "n": 4}
        deaf = served.opened(body, window=2048)
        assert until(lambda: sum(counted(served).values()) == 1)
        assert served.idle()
        deaf.close()


def test_a_client_that_sends_its_body_too_slowly(generator: Generator) -> None:
    limits = ServerSettings(model_names=("tiny",), body_timeout=0.1)
    with running(generator, limits) as served:
        answer = answered(served, b"content-length: 100\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408") and b"request_timeout" in answer


def test_a_body_that_is_too_large(generator: Generator) -> None:
    with running(generator, ServerSettings(model_names=("tiny",), max_body=1000)) as served:
        chunk = b"transfer-encoding: chunked\r\n\r\n" + b"400\r\n" + b" " * 1024 + b"\r\n"
        answer = answered(served, chunk)
        assert answer.startswith(b"HTTP/1.1 413") and b"body_too_large" in answer
        big = served.post(CHAT, b" " * 1001)
        assert big.status == 413 and big.error["code"] == "body_too_large"


def answered(served: Running, rest: bytes) -> bytes:
    """Send a head with `rest` behind its content type; return all until the server closes."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\n")
        connection.sendall(b"content-type: application/json\r\n" + rest)
        return b"".join(iter(lambda: connection.recv(65536), b""))
