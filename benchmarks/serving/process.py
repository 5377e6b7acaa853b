"""A server as a process, and what the system and the server say about it. Linux only."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from outrider.core.values import JsonValue

_READY = "serving at "
_START = 600.0
"""Seconds in which a server must listen."""

GAUGES = {
    "running": "num_requests_running",
    "waiting": "num_requests_waiting",
    "cache": "kv_cache_usage_perc",
    "tokens": "generation_tokens_total",
    "cached": "prefix_cache_hits_total",
    "preemptions": "num_preemptions_total",
    "steps": "engine_steps_total",
}
"""Names of ours, and of the metrics of the server."""


@dataclass(slots=True)
class Server:
    """A server that runs.

    Attributes:
        url: what precedes `/chat/completions`.
        process: the process.
        key: a key for `/metrics`; None if the server has no keys.
    """

    url: str
    process: subprocess.Popen[bytes]
    key: str | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def metrics(self) -> dict[str, float]:
        """Return gauges and counters, by names of ours; those without a value are left out."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        place = self.url.removesuffix("/v1") + "/metrics"
        with urlopen(Request(place, headers=headers), timeout=60) as answer:
            return parsed(answer.read().decode())

    def memory(self) -> dict[str, JsonValue]:
        """Return `rss` and, where it can be read, `pss`, in MiB; `threads`, `descriptors`, and the
        CPU seconds so far as `cpu`."""
        folder = Path("/proc", str(self.pid))
        status = _fields(folder / "status")
        found: dict[str, JsonValue] = {
            "rss": status["VmRSS"] / 1024,
            "threads": int(status["Threads"]),
            "descriptors": len(os.listdir(folder / "fd")),
            "cpu": _cpu((folder / "stat").read_text())[1],
        }
        with suppress(OSError):  # other kernels lack it, or need more rights
            found["pss"] = _fields(folder / "smaps_rollup")["Pss"] / 1024
        return found

    def cpu_by_thread(self) -> dict[int, tuple[str, float]]:
        """Return, by the identifier of each thread, its name and the CPU seconds it has spent."""
        found: dict[int, tuple[str, float]] = {}
        for folder in Path("/proc", str(self.pid), "task").iterdir():
            try:
                text = (folder / "stat").read_text()
            except OSError:  # it has ended
                continue
            found[int(folder.name)] = _cpu(text)
        return found


@contextmanager
def served(
    words: Sequence[str], log: Path, keys: Sequence[str] = (), key_in_use: str | None = None
) -> Iterator[Server]:
    """Context manager: `outrider serve` with these options, at a free port.

    It gets SIGTERM at the end, and must end with status 0.

    Args:
        words: options, such as `--target`.
        log: file for what it writes.
        keys: the keys that it accepts.
        key_in_use: the key for `/metrics`.

    Raises:
        RuntimeError: the server does not start, or ends with an error.
    """
    environment = dict(os.environ)
    if keys:
        environment["OUTRIDER_API_KEYS"] = ",".join(keys)
    command = [sys.executable, "-m", "outrider", "serve", "--port", "0", *words]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        yield Server(_address(process, log), process, key_in_use)
        process.send_signal(signal.SIGTERM)
        if process.wait(timeout=120):
            raise RuntimeError(f"the server ended with status {process.returncode}; see {log}")
    finally:
        process.kill()
        process.wait()


def parsed(text: str) -> dict[str, float]:
    """Return the values of `GAUGES` in metrics of the format of Prometheus."""
    found: dict[str, float] = {}
    for name, metric in GAUGES.items():
        if (value := re.search(rf"^outrider:{metric}\{{[^}}]*\}} (\S+)$", text, re.M)) is not None:
            found[name] = float(value[1])
    return found


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the server listens; return its address."""
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith(_READY):
                return line.removeprefix(_READY).strip()
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start; see {log}")


def _cpu(text: str) -> tuple[str, float]:
    """Return the name and the CPU seconds of a process or thread, from its `stat`."""
    name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :]
    user, system = rest.split()[11:13]
    return name, (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _fields(file: Path) -> dict[str, float]:
    """Return the numbers of a file with lines such as `VmRSS: 1024 kB`."""
    lines = (line.split() for line in file.read_text().splitlines() if ":" in line)
    return {
        words[0].rstrip(":"): float(words[1])
        for words in lines
        if len(words) > 1 and words[1].isdecimal()
    }
