"""A server in this process, on a free port, and plain requests to it."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from outrider.engine.generator import Generator
from outrider.engine.serving.searches import SearchingEngine
from outrider.engine.serving.settings import ServingSettings
from outrider.server.app import create_app
from outrider.server.context import Context
from outrider.server.http.protocol import protocol
from outrider.server.keys import Keys
from outrider.server.settings import ServerSettings
from tests.engine.serving.setups import COSTS, until

HELLO = [{"role": "user", "content": "Hello"}]
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
QUICK: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "seed": 1}
LONG: dict[str, Any] = {
    "model": "tiny",
    "messages": HELLO,
    "max_tokens": 400,
    "ignore_eos": True,
    "seed": 1,
}

Writes = Callable[..., None]
"""Lets the model write given pieces of text: `writes("Hello", " you")`."""


@dataclass(slots=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, whose shape is checked."""
        assert set(self.json) == {"error"}, self.body
        found = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert isinstance(found["message"], str) and "\n" not in found["message"]
        assert isinstance(found["type"], str) and isinstance(found["code"], str)
        assert self.headers["x-request-id"]
        return found

    @property
    def frames(self) -> list[str]:
        """The events of a stream, without comments."""
        text = self.body.decode()
        assert text.endswith("\n\n")
        events = text[:-2].split("\n\n")
        return [event for event in events if not event.startswith(":")]

    @property
    def chunks(self) -> list[Any]:
        """The events of a stream, which must end with [DONE]."""
        *frames, last = self.frames
        assert last == "data: [DONE]"
        assert all(frame.startswith("data: {") for frame in frames)
        return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@dataclass(slots=True)
class Running:
    """A server that runs in a thread of this process."""

    port: int
    context: Context
    engine: SearchingEngine
    key: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, data, {"content-type": "application/json", **headers})

    def send(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, data, self.headers | named)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def opened(self, body: Any, path: str = CHAT, *, window: int | None = None) -> socket.socket:
        """Send a request on a socket of its own; return the socket."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(data)}\r\n\r\n"
        found = socket.socket()
        if window is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        found.connect(("127.0.0.1", self.port))
        found.sendall(head.encode() + data)
        return found

    def idle(self, seconds: float = 60.0) -> bool:
        """Wait until nothing runs; return whether that happened."""
        return until(lambda: not self.context.client.open and not self.engine.busy, seconds)

    def asked(self, body: Any) -> "Future[Answer]":
        """Send a request in a thread; return its answer to come."""
        found: Future[Answer] = Future()

        def ask() -> None:
            try:
                found.set_result(self.post(CHAT, body))
            except BaseException as error:
                found.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        return found


@contextmanager
def running(
    generator: Generator,
    settings: ServerSettings | None = None,
    keys: Keys | None = None,
    engine_settings: ServingSettings | None = None,
    connection_timeout: float | None = None,
    send_buffer: int | None = None,
) -> Iterator[Running]:
    """Context manager: a server for `generator` under the name `tiny`."""
    settings = settings or ServerSettings(model_names=("tiny",))
    engines: list[SearchingEngine] = []

    def make(client: Any) -> SearchingEngine:
        engines.append(
            SearchingEngine(generator, engine_settings, publish=client.publish, costs=COSTS)
        )
        return engines[0]

    app = create_app(generator, make, settings, keys)
    config = uvicorn.Config(
        app,
        http=protocol(connection_timeout or settings.send_timeout),
        loop="asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.socket() as bound:
        if send_buffer is not None:  # connections inherit it
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        bound.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
        thread.start()
        try:
            assert until(lambda: server.started or not thread.is_alive()) and server.started
            yield Running(bound.getsockname()[1], app.state.context, engines[0])
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
