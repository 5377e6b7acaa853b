"""Run the steps of deploy/Dockerfile without Docker, in an empty folder and virtual environment.

    python -m scripts.try_dockerfile [FOLDER]

Folders of the image become folders below FOLDER. `apt-get`, `useradd` and `USER` are named and left
out: a compiler must be there. At the end the server starts with the entry point, the health check
must succeed, a request is answered, and SIGTERM must end it with status 0. It needs a package
index, and some minutes.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "deploy/Dockerfile"
KEY = "a-key-for-the-trial"
PLACES = ("/opt/outrider", "/src", "/wheels", "/var/lib/outrider")
"""Folders of the image that are moved."""
LEFT_OUT = ("apt-get", "useradd")
PATIENCE = 300.0


class TrialError(Exception):
    """A step failed; the message is one line."""


@dataclass(slots=True)
class Image:
    """The state of the build: where it is, and with which environment.

    Attributes:
        root: the folder that stands for `/`.
        environment: variables of the steps.
        folder: the working directory.
        values: the last value of instructions that only describe the image.
    """

    root: Path
    environment: dict[str, str]
    folder: Path
    values: dict[str, str] = field(default_factory=dict[str, str])

    def moved(self, text: str) -> str:
        """Return text with the folders of the image below `root`."""
        for place in PLACES:
            text = re.sub(rf"(?<![\w/.-]){re.escape(place)}(?![\w-])", f"{self.root}{place}", text)
        return text

    def step(self, word: str, rest: str) -> None:
        """Carry out one instruction."""
        if word == "RUN":
            self._run(rest)
        elif word == "COPY":
            self._copy(rest)
        elif word == "WORKDIR":
            self.folder = Path(self.moved(rest))
            self.folder.mkdir(parents=True, exist_ok=True)
        elif word == "ENV":
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                value = value.replace("$PATH", self.environment["PATH"])
                self.environment[name] = self.moved(value)
        else:
            self.values[word] = rest

    def _run(self, command: str) -> None:
        if command.startswith(LEFT_OUT):
            print(f"left out: {command}", flush=True)
            return
        print(f"RUN {command}", flush=True)
        run = subprocess.run(
            ["sh", "-c", self.moved(command)], cwd=self.folder, env=self.environment, check=False
        )
        if run.returncode:
            raise TrialError(f"status {run.returncode}: {command}")

    def _copy(self, rest: str) -> None:
        if rest.startswith("--from="):
            return  # the stages share their folders here
        *sources, target = rest.split()
        for name in sources:
            source = ROOT / name
            if source.is_dir():
                junk = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, self.folder / target, ignore=junk)
            else:
                shutil.copy(source, self.folder / target)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Dockerfile."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        if line.strip() and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def build(root: Path) -> Image:
    """Carry out all instructions; return the image."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    path = f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin"
    image = Image(root, kept | {"PATH": path, "HOME": str(root), "LANG": "C.UTF-8"}, root)
    for word, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")):
        image.step(word, rest)
    return image


def serve(image: Image) -> None:
    """Start the server as the image does, and use it."""
    port = free_port()
    command = [*json.loads(image.values["ENTRYPOINT"]), *json.loads(image.values["CMD"])]
    environment = image.environment | {"OUTRIDER_API_KEYS": f"me={KEY}"}
    check = json.loads(image.values["HEALTHCHECK"].partition("CMD ")[2])
    check = [part.replace(":8000", f":{port}") for part in check]
    program = shutil.which(command[0], path=image.environment["PATH"]) or command[0]
    print(" ".join(command), flush=True)
    with subprocess.Popen(
        [program, *command[1:], "--port", str(port)], cwd=image.folder, env=environment
    ) as server:
        try:
            _wait(server, check, image)
            print(_answer(port), flush=True)
        finally:
            server.send_signal(signal.Signals[image.values["STOPSIGNAL"]])
    if server.returncode:
        raise TrialError(f"the server ended with status {server.returncode}")


def _wait(server: "subprocess.Popen[bytes]", check: list[str], image: Image) -> None:
    """Wait until the health check of the image succeeds."""
    deadline = time.monotonic() + PATIENCE
    program = shutil.which(check[0], path=image.environment["PATH"]) or check[0]
    while time.monotonic() < deadline and server.poll() is None:
        run = subprocess.run([program, *check[1:]], stderr=subprocess.DEVNULL, check=False)
        if not run.returncode:
            return
        time.sleep(1)
    raise TrialError("the health check does not succeed")


def _answer(port: int) -> str:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def free_port() -> int:
    """Return a port that nothing uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def main() -> None:
    """Build and serve in the folder that is given, or in one that is removed at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else scratch).resolve()
        root.mkdir(parents=True, exist_ok=True)
        serve(build(root))
    print("every step succeeded")


if __name__ == "__main__":
    try:
        main()
    except TrialError as error:
        sys.exit(f"error: {error}")
