"""`outrider serve` as a process: signals under load, the end of the engine, and many clients that
leave."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from outrider.engine.generator import Generator
from tests.engine.serving.setups import until
from tests.server.setups import CHAT, COMPLETE, HELLO, LONG, Running, running


@dataclass
class Process:
    """A server in a process of its own."""

    port: int
    process: subprocess.Popen[str]

    def ask(self, body: Any) -> socket.socket:
        data = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(head.encode() + data)
        return connection

    def end(self) -> tuple[int, str]:
        """Return the exit code and what was written on standard error."""
        _, text = self.process.communicate(timeout=60)
        return self.process.returncode, text


@contextmanager
def process(*options: str, code: str = "") -> Iterator[Process]:
    """Context manager: a server; `code` runs before it."""
    run = f"{code}\nfrom outrider.cli.app import main\nimport sys\nsys.exit(main(sys.argv[1:]))"
    words = ["serve", "--target", "tiny", "--port", "0", "--threads", "1", *options]
    started = subprocess.Popen(
        [sys.executable, "-c", run, *words], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert started.stderr is not None
        for line in started.stderr:
            if line.startswith("serving at http://127.0.0.1:"):
                yield Process(int(line.rsplit(":", 1)[1].partition("/")[0]), started)
                return
        raise AssertionError(f"the server did not start: {started.wait()}")
    finally:
        started.kill()
        started.wait()
        if started.stderr is not None:
            started.stderr.close()


def whole(connection: socket.socket) -> bytes:
    """Read until the end."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.slow
def test_a_signal_under_load_loses_no_byte() -> None:
    with process() as served:
        body = LONG | {"max_tokens": 200, "stream": True}
        open_ = [served.ask(body | {"seed": seed}) for seed in range(8)]
        heads = [connection.recv(10) for connection in open_]
        served.process.send_signal(signal.SIGTERM)
        answers = [head + whole(one) for head, one in zip(heads, open_, strict=True)]
        code, log = served.end()
    assert code == 0
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200") and b"[DONE]" in answer
        assert b'"finish_reason":"length"' in answer and b'"error"' not in answer
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [line["outcome"] for line in lines] == ["done"] * 8
    assert all(line["completion_tokens"] == 200 for line in lines)


SLOW = """
import time
from outrider.engine.serving import engine
real = engine.Engine.step
def step(self):
    real(self)
    if self.state.counters.get("generation_tokens", 0) > 4:
        time.sleep(0.2)
engine.Engine.step = step
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(number: int) -> None:
    with process(code=SLOW) as served:
        connection = served.ask(LONG | {"stream": True})
        connection.recv(10)
        served.process.send_signal(number)
        assert served.process.stderr is not None
        assert any(line.startswith("draining") for line in served.process.stderr)
        served.process.send_signal(number)
        assert served.end()[0] == 128 + number  # 0 after the end of the answer
        connection.close()


@pytest.mark.slow
def test_an_idle_server_ends_at_a_signal() -> None:
    with process() as served:
        served.process.send_signal(signal.SIGINT)
        assert served.end()[0] == 0


BREAK = """
from outrider.engine.serving import engine
real = engine.Engine.step
def step(self):
    real(self)
    if self.state.counters.get("generation_tokens", 0) > 20:
        raise MemoryError("injected")
engine.Engine.step = step
"""


@pytest.mark.slow
def test_a_dead_engine_ends_the_process() -> None:
    with process(code=BREAK) as served:
        answer = whole(served.ask(LONG))
        assert answer.startswith(b"HTTP/1.1 500") and b"injected" in answer
        code, log = served.end()
    assert code != 0 and "the engine ended: MemoryError: injected" in log


@pytest.mark.slow
def test_a_missing_package_is_named() -> None:
    code = "import importlib.util as u\nreal = u.find_spec\n"
    code += "u.find_spec = lambda n, *a: None if n == 'uvicorn' else real(n, *a)\n"
    run = f"{code}\nfrom outrider.cli.app import main\nimport sys\nsys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == 2 and 'pip install "outrider[server]"' in done.stderr


def descriptors() -> int:
    """Return the number of open files and sockets."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
def test_a_storm_of_clients_that_leave(generator: Generator) -> None:
    """2,000 requests are cut in every phase; afterwards all is as before."""
    with running(generator) as served:
        assert served.post(CHAT, LONG | {"max_tokens": 8}).status == 200
        assert served.idle()
        threads, files = threading.active_count(), descriptors()
        random = Random(0)
        for _ in range(40):
            _burst(served, random)
        assert served.idle(60)
        assert until(lambda: descriptors() <= files + 2, 10), (files, descriptors())
        assert threading.active_count() <= threads + 2
        client, state = served.context.client, served.engine.state
        assert not client.open and not client.unread_tokens and not client._boxes
        assert state.running == state.waiting == 0
        load = served.get("/load").json
        assert load["running"] == load["waiting"] == load["server_load"] == 0
        assert served.post(CHAT, LONG | {"max_tokens": 8}).status == 200


def _burst(served: Running, random: Random) -> None:
    """Send 50 requests at once, each cut after another time."""

    def ask() -> None:
        body = {"model": "tiny", "max_tokens": 400, "ignore_eos": True}
        path = random.choice([CHAT, COMPLETE])
        body |= {"messages": HELLO} if path == CHAT else {"prompt": "Once " * random.randint(1, 99)}
        body |= {"stream": random.random() < 0.5, "n": random.choice([1, 1, 2])}
        connection = served.opened(body, path)
        wait = random.choice([0.0, 0.01, 0.1, 0.4])
        time.sleep(wait)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.slow
def test_keys_of_the_command(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[ana]\nkey = "secret"\n')
    with process("--api-keys", str(file)) as served:
        connection = served.ask(LONG)
        assert whole(connection).startswith(b"HTTP/1.1 401")
