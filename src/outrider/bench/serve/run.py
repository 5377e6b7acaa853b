"""Measures one or several servers in turn, at several loads."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import process_time
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from outrider.bench.serve.figures import Objective, figures
from outrider.bench.serve.http import Address
from outrider.bench.serve.load import Answer, Job, closed_loop, open_loop
from outrider.bench.statistics import Ratio
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

Told = Callable[[str, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How requests are sent: from a number of clients, or at a rate.

    Attributes:
        clients: of a closed loop; None for an open loop.
        rate: requests per second of an open loop.
        requests: number of requests.
    """

    clients: int | None
    rate: float | None
    requests: int

    @property
    def name(self) -> str:
        """The load in words."""
        if self.clients is None:
            return f"{self.rate:g}/s"
        return f"{self.clients} client{'' if self.clients == 1 else 's'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that is measured.

    Attributes:
        url: what precedes `/chat/completions`.
        model: the name that requests give.
        key: the API key.
    """

    url: str
    model: str
    key: str | None = None


def find_model(url: str, key: str | None) -> str:
    """Return the first model that a server lists. Raises `OptionError`."""
    Address.of(url)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urlopen(Request(f"{url.rstrip('/')}/models", headers=headers), timeout=10) as answer:
            return str(json.load(answer)["data"][0]["id"])
    except HTTPError as error:
        raise OptionError(
            f"{url} answers {error.code}", hint="Give --key, or another --url"
        ) from None
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise OptionError(
            f"there is no server at {url}: {reason}",
            hint="Start one: outrider serve --target MODEL, or give its --url",
        ) from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise OptionError(f"{url} lists no models", hint="Give --model") from None


def measure(
    servers: Sequence[Server],
    loads: Sequence[Load],
    bodies: Sequence[dict[str, JsonValue]],
    *,
    repeats: int = 1,
    timeout: float = 600.0,
    objective: Objective | None = None,
    told: Told = lambda what, done: None,
) -> list[dict[str, JsonValue]]:
    """Measure each server at each load, in turn; return one record for each run.

    All servers receive the same requests, and each run has others than the runs before, as far as
    there are enough: a server may remember answers. The times of an open loop are the same for all
    servers, and others in each repeat.

    An answer that is not complete after `timeout` seconds counts as failed.

    A record holds `server`, `model`, `load`, `repeat`, the figures, the share of one processor that
    the generator of the load used (`client_cpu`), how many requests were `repeated`, and the texts.
    """
    found: list[dict[str, JsonValue]] = []
    sent = 0
    for repeat in range(repeats):
        for load in loads:
            own = [bodies[(sent + i) % len(bodies)] for i in range(load.requests)]
            again = load.requests - min(max(len(bodies) - sent, 0), load.requests)
            sent += load.requests
            for server in servers:
                what = f"{load.name} at {server.url}"
                progress = partial(told, what)
                named = [{"model": server.model, **body} for body in own]
                address = Address.of(server.url)
                job = Job(address=address, bodies=named, key=server.key, timeout=timeout)
                answers, share = _run(job, load, progress, repeat)
                found.append(
                    {
                        "server": server.url,
                        "model": server.model,
                        "load": load.name,
                        "repeat": repeat,
                        **figures(answers, objective),
                        "client_cpu": share,
                        "repeated": again,
                        "errors": sorted({a.error for a in answers if a.error}),
                        "texts": [a.text for a in answers],
                    }
                )
    return found


def _run(
    job: Job, load: Load, told: Callable[[int], None], seed: int
) -> tuple[list[Answer], float]:
    """Return the answers, and the share of one processor that the generator of the load used."""
    done = 0

    def count(_: Answer) -> None:
        nonlocal done
        done += 1
        told(done)

    before = process_time()
    if load.clients is not None:
        answers = asyncio.run(closed_loop(job, load.clients, load.requests, count))
    else:
        answers = asyncio.run(open_loop(job, load.rate or 1.0, load.requests, count, seed))
    spent = process_time() - before
    seconds = max(a.ended for a in answers) - min(a.sent for a in answers)
    return answers, spent / seconds if seconds else 0.0


def summary(records: Sequence[dict[str, JsonValue]]) -> list[dict[str, JsonValue]]:
    """Return, by load and server, medians over repeats, and the ratio of the throughput to that of
    the first server in the same repeat, with its interval."""
    loads = list(dict.fromkeys(record["load"] for record in records))
    servers = list(dict.fromkeys(record["server"] for record in records))
    found: list[dict[str, JsonValue]] = []
    for load in loads:
        by = {s: [r for r in records if (r["load"], r["server"]) == (load, s)] for s in servers}
        found += [_row(load, server, runs, by[servers[0]]) for server, runs in by.items()]
    return found


def _row(
    load: str,
    server: str,
    runs: Sequence[dict[str, JsonValue]],
    first: Sequence[dict[str, JsonValue]],
) -> dict[str, JsonValue]:
    speeds = [run["tokens_per_second"] for run in runs]
    pairs = zip(speeds, (run["tokens_per_second"] for run in first), strict=True)
    ratio = Ratio.of([own / other for own, other in pairs if own and other])
    row: dict[str, JsonValue] = {
        "load": load,
        "server": server,
        "failed": sum(run["failed"] for run in runs),
        "tokens_per_second": median(speeds),
        "ratio": ratio.to_dict() if ratio else None,
    }
    for name in ("ttft", "tpot", "itl", "e2e"):
        for percentile in ("p50", "p95"):
            values = [run[name][percentile] for run in runs if run[name]]
            row[f"{name}_{percentile}"] = median(values) if values else None
    for name in ("goodput", "met"):
        if name in runs[0]:
            row[name] = median(run[name] for run in runs)
    return row
