"""What HTTP costs beside the engine: CPU time of each thread of a server with many streams.

    python -m benchmarks.serving.http_share tiny --streams 64

Starts `outrider serve`. When all streams run, the CPU time of its threads and the number of steps
are read at the ends of `--windows` windows. The event loop, which does the work of HTTP, is the
main thread; the engine is the thread that uses most CPU besides it, and the others are the threads
that prepare requests. Prints one line of JSON: medians over windows of the milliseconds of CPU per
step, and of the share of the event loop in those of the engine.

CPU time does not count the waiting for a processor, so that other work on the machine changes it
little; but work of the loop and of the engine takes turns where it runs in Python, so that a share
of 5 % can make a step 5 % longer.
"""

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving.process import Server, served

from outrider.bench.serve.http import Address, events
from outrider.bench.workloads import read_workloads
from outrider.core.values import JsonValue


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a window")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--tokens", type=int, default=600, help="of an answer, at most")
    parser.add_argument("--logprobs", action="store_true", help="with 5 alternatives")
    parser.add_argument("--prompts", default="dialogue")
    options = parser.parse_args(arguments)
    words = ["--target", options.model, "--threads", options.threads]
    words += ["--max-num-seqs", str(options.streams)]
    with tempfile.TemporaryDirectory() as folder, served(words, Path(folder, "log")) as server:
        print(json.dumps(asyncio.run(_measured(server, options))))


async def _measured(server: Server, options: argparse.Namespace) -> dict[str, JsonValue]:
    windows: list[dict[str, float]] = []
    async with _streams(server, options):
        while len(windows) < options.windows:
            before, threads = await _steps(server, options.streams), server.cpu_by_thread()
            await asyncio.sleep(options.seconds)
            after = await asyncio.to_thread(server.metrics)
            now = server.cpu_by_thread()
            spent = {id: cpu - threads.get(id, ("", 0.0))[1] for id, (_, cpu) in now.items()}
            steps, tokens = after["steps"] - before["steps"], after["tokens"] - before["tokens"]
            windows.append(_window(spent, server.pid, steps, tokens))
    return {
        "model": options.model,
        "streams": options.streams,
        "windows": len(windows),
        **{name: round(median(w[name] for w in windows), 4) for name in windows[0]},
        "shares": [round(w["share"], 4) for w in windows],
        "load_average": os.getloadavg()[0],
    }


def _window(spent: dict[int, float], loop: int, steps: float, tokens: float) -> dict[str, float]:
    """Return the figures of one window."""
    own = spent.pop(loop)
    engine = max(spent.values())
    others = sum(spent.values()) - engine
    return {
        "steps": steps,
        "tokens_per_step": tokens / steps,
        "loop_ms": 1000 * own / steps,
        "engine_ms": 1000 * engine / steps,
        "other_ms": 1000 * others / steps,
        "loop_us_per_token": 1e6 * own / tokens,
        "share": own / engine,
    }


async def _steps(server: Server, streams: int) -> dict[str, float]:
    """Wait until all streams run; return the counters."""
    while (found := await asyncio.to_thread(server.metrics))["running"] < 0.9 * streams:
        await asyncio.sleep(0.2)
    return found


@asynccontextmanager
async def _streams(server: Server, options: argparse.Namespace) -> AsyncIterator[None]:
    """Context manager: clients that read one stream after the other."""
    asked = [
        t.prompt if not isinstance(t.prompt, str) else [{"role": "user", "content": t.prompt}]
        for t in read_workloads([options.prompts])
    ]
    more = {"logprobs": True, "top_logprobs": 5} if options.logprobs else {}
    address = Address.of(server.url)

    async def client(number: int) -> None:
        body: dict[str, Any] = {
            "model": Path(options.model).name,
            "messages": asked[number % len(asked)],
            "max_tokens": options.tokens,
            "ignore_eos": True,
            "stream": True,
            **more,
        }
        turn = 0
        while True:
            turn += 1
            body["seed"] = 1000 * turn + number
            async for _ in events(address, "/chat/completions", body):
                pass

    clients = [asyncio.create_task(client(number)) for number in range(options.streams)]
    try:
        yield
    finally:
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


if __name__ == "__main__":
    main()
