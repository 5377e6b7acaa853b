"""Whether a server that runs for long keeps its memory: conversations for half an hour or more.

    python -m benchmarks.serving.soak tiny --minutes 30 --out runs/soak.jsonl

Starts `outrider serve`. Clients with several keys hold conversations: each turn sends the history
and the answer so far, and some clients leave in the middle of an answer. Every few seconds a line
with the memory, the threads, the open descriptors and the gauges of the server is written to
`--out`, and at the end one after all clients have gone. The summary is one line of JSON: slopes in
MiB per hour (Theil-Sen) with 95 % intervals, without the first fifth of the time. With `report` in
place of the model it is computed from the file, also of a run that was interrupted.

The caches are small (`--cache-tokens`), so that they are full within the first fifth: until then
the memory grows because answers are kept for reuse.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from benchmarks.serving.chats import Client, Counts
from benchmarks.serving.process import Server, served
from benchmarks.serving.slope import slope

from outrider.bench.serve.http import Address
from outrider.bench.workloads import read_workloads
from outrider.core.values import JsonValue

WARM_UP = 0.2
"""Share of the time that the slopes leave out."""

KEYS = ("ann", "bob", "cid")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, or report what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model, or 'report'")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    parser.add_argument("--clients", type=int, default=9)
    parser.add_argument("--leaving", type=float, default=0.2, help="share of answers left")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--cache-tokens", default="8192")
    parser.add_argument("--prompts", default="dialogue")
    options = parser.parse_args(arguments)
    if options.model != "report":
        soak(options)
    print(json.dumps(summary(recorded(options.out))))


def soak(options: argparse.Namespace) -> None:
    """Run clients against a server of its own, and record it."""
    words = ["--target", options.model, "--threads", options.threads]
    words += ["--cache-tokens", options.cache_tokens]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("", encoding="utf-8")
    log = options.out.with_suffix(".log")
    keys = [f"{name}={name}-secret" for name in KEYS]
    with served(words, log, keys, f"{KEYS[0]}-secret") as server:
        asyncio.run(_run(server, options))


async def _run(server: Server, options: argparse.Namespace) -> None:
    begun, counts = monotonic(), Counts()
    tasks = read_workloads([options.prompts])
    questions = [t.prompt if isinstance(t.prompt, str) else t.prompt[-1]["content"] for t in tasks]
    clients = [
        Client(
            address=Address.of(server.url),
            model=Path(options.model).name,
            key=f"{KEYS[number % len(KEYS)]}-secret",
            questions=questions,
            until=begun + 60 * options.minutes,
            counts=counts,
            leaving=options.leaving,
            number=number,
        )
        for number in range(options.clients)
    ]
    await _record(server, options.out, counts, begun, "idle")
    running = asyncio.gather(*(client.run() for client in clients))
    try:
        while not running.done():
            await asyncio.wait([running], timeout=options.every)
            if not running.done():
                await _record(server, options.out, counts, begun, "load")
        await running
    finally:
        running.cancel()
    await _until_idle(server)
    await _record(server, options.out, counts, begun, "ended")


async def _record(server: Server, out: Path, counts: Counts, begun: float, phase: str) -> None:
    """Write one line."""
    gauges = await asyncio.to_thread(server.metrics)
    record: dict[str, JsonValue] = {
        "seconds": round(monotonic() - begun, 2),
        "phase": phase,
        **server.memory(),
        **gauges,
        "answers": counts.answers,
        "left": counts.left,
        "conversations": counts.conversations,
        "failed": counts.failed,
        "load_average": os.getloadavg()[0],
    }
    if counts.errors:
        record["errors"] = sorted(counts.errors)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


async def _until_idle(server: Server) -> None:
    """Wait until nothing runs, at most a minute."""
    for _ in range(60):
        gauges = await asyncio.to_thread(server.metrics)
        if not gauges["running"] and not gauges["waiting"]:
            return
        await asyncio.sleep(1.0)


def recorded(file: Path) -> list[dict[str, JsonValue]]:
    """Read the lines of a run; the last one may be cut."""
    found: list[dict[str, JsonValue]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def summary(records: Sequence[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    """Return the figures of a run: slopes per hour after the warm-up, first and last values."""
    last = records[-1]
    counted = [r for r in records if r["phase"] == "load"]
    warm = WARM_UP * max((r["seconds"] for r in counted), default=0.0)
    counted = [r for r in counted if r["seconds"] >= warm]
    hours = [r["seconds"] / 3600 for r in counted]
    loads = [r["load_average"] for r in records]
    found: dict[str, JsonValue] = {
        "minutes": round(last["seconds"] / 60, 2),
        "samples": len(counted),
        **{name: last[name] for name in ("answers", "left", "conversations", "failed", "tokens")},
        "ended": last["phase"] == "ended",
        "errors": last.get("errors", []),
        "load_average": [min(loads), max(loads)],
    }
    for name in ("rss", "pss", "threads", "descriptors"):
        values = [r[name] for r in counted if name in r]
        fitted = slope(hours, values) if len(values) == len(hours) else None
        found[name] = {
            "idle": records[0].get(name),
            "least": min(values, default=None),
            "most": max(values, default=None),
            "ended": last.get(name),
            "per_hour": fitted.to_dict() if fitted else None,
        }
    found["gauges"] = {name: last.get(name) for name in ("running", "waiting", "cache")}
    return found


if __name__ == "__main__":
    main()
