"""`outrider serve --replicas 2`: a process is killed under load, and no request notices."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import outrider
from outrider.engine.generator import Generator
from tests.engine.serving.setups import until

ROOT = Path(__file__).parents[3]
PROMPTS = [f"Once upon a time there was a {name}" for name in ("fox", "king", "ship", "tree")]
OPTIONS: dict[str, Any] = {"temperature": 0.8, "seed": 11, "ignore_eos": True}
TOKENS = 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("ray") is None, reason='ray is missing: pip install "outrider[distributed]"'
    ),
]


@dataclass(slots=True)
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list[str])

    def read(self) -> None:
        """Keep what the server writes."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def written(self, text: str) -> str:
        """Return the first line with a text; empty if there is none."""
        return next((line for line in list(self.lines) if text in line), "")

    def processes(self) -> dict[int, str]:
        """Return the command lines of all processes that the server has started."""
        found: dict[int, str] = {}
        parents: dict[int, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                line = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            parents[int(folder.name)], found[int(folder.name)] = parent, line
        mine = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
            mine |= more
        return {pid: found[pid] for pid in mine - {self.process.pid} if pid in found}

    def replica(self, name: str) -> int | None:
        """Return the process of a replica."""
        start = f"ray::ServeReplica:{name}"
        return next((pid for pid, line in self.processes().items() if line.startswith(start)), None)

    def complete(self, prompt: str, stream: bool) -> str:
        """Return the answer to a prompt."""
        body = {
            "model": "tiny",
            "prompt": prompt,
            "max_tokens": TOKENS,
            "stream": stream,
            **OPTIONS,
        }
        request = urllib.request.Request(
            f"{self.url}/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            data = answer.read().decode()
        if not stream:
            return json.loads(data)["choices"][0]["text"]
        frames = [one[6:] for one in data.split("\n\n") if one.startswith("data: ")]
        assert frames[-1] == "[DONE]"
        chunks = [json.loads(one) for one in frames[:-1]]
        return "".join(c["text"] for chunk in chunks for c in chunk["choices"])


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Context manager: a server with two replicas."""
    command = [sys.executable, "-m", "outrider", "serve", "--target", "tiny", "--dtype", "int8"]
    command += ["--replicas", "2", "--port", "0", *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        server = Server(process)
        reading = threading.Thread(target=server.read)
        reading.start()
        try:
            ready = until(lambda: bool(server.written("serving at")), 300)
            assert ready and process.poll() is None, server.lines
            server.url = server.written("serving at").split()[-1]
            yield server
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            reading.join()


@pytest.fixture(scope="module")
def alone() -> Generator:
    return outrider.load("tiny", threads=1, dtype="int8", mode="none")


def test_a_replica_is_killed_under_load(alone: Generator) -> None:
    expected = {
        prompt: alone.generate(prompt, max_new_tokens=TOKENS, **OPTIONS).text for prompt in PROMPTS
    }
    answers: list[tuple[str, str]] = []
    failures: list[str] = []
    enough = threading.Event()

    with serving() as server:

        def ask(client: int) -> None:
            turn = client
            while not enough.is_set():
                prompt = PROMPTS[turn % len(PROMPTS)]
                try:
                    answers.append((prompt, server.complete(prompt, turn % 3 == 0)))
                except Exception as error:
                    failures.append(repr(error))
                    return
                turn += 1

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for client in clients:
            client.start()
        assert until(lambda: len(answers) >= 16 or bool(failures), 120)
        killed = server.replica("engine-0")
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        count = len(answers)
        assert until(lambda: bool(server.written("is sent again")), 60), server.lines
        assert until(lambda: len(answers) >= count + 16 or bool(failures), 120)
        enough.set()
        for client in clients:
            client.join()
        assert failures == []
        assert [text for prompt, text in answers if text != expected[prompt]] == []
        assert until(lambda: sum("engine-0 is up" in one for one in server.lines) == 2, 120)
        assert server.replica("engine-0") not in (None, killed)
        children = server.processes()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0, server.lines
        gone = until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 20)
        assert gone, children


def test_a_replica_is_removed_under_load(alone: Generator) -> None:
    """The program is `tests/server/replicas/removing.py`, which prints the texts."""
    expected = alone.generate(PROMPTS[0], max_new_tokens=TOKENS, **OPTIONS)
    command = [sys.executable, "-m", "tests.server.replicas.removing", PROMPTS[0], str(TOKENS)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    done = subprocess.run(
        [*command, json.dumps(OPTIONS)], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failures"] == [""] * len(found["ids"])
    assert [tuple(ids) for ids in found["ids"]] == [expected.token_ids] * len(found["ids"])
    assert found["running"] == ["engine-0"]
