"""`outrider bench serve`: measures servers that are running, under load."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.options import option
from outrider.cli.ui.render import Screen, print_json
from outrider.core.errors import OptionError, writing

if TYPE_CHECKING:
    from outrider.bench.serve.figures import Objective
    from outrider.bench.serve.run import Load

_URL = "http://127.0.0.1:8000/v1"
_SERVERS, _LOAD, _REQUESTS, _OBJECTIVE = "Servers", "Load", "Requests", "Objective"


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """Options that name the servers."""

    url: Annotated[
        list[str] | None,
        option(
            panel=_SERVERS,
            help="A server with the OpenAI API, up to /v1. Repeatable: all are measured in turn, "
            f"and compared with the first. Default: {_URL}.",
        ),
    ] = None
    model: Annotated[
        str | None,
        option(panel=_SERVERS, help="Name of the model; default: the first that a server lists."),
    ] = None
    key: Annotated[
        str | None,
        option(panel=_SERVERS, help="API key; default: the environment's OPENAI_API_KEY."),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Loads:
    """Options for how requests are sent."""

    clients: Annotated[
        str,
        option(
            panel=_LOAD,
            help="Closed loop: numbers of clients, such as 1,4,16. Each sends its next request "
            "when the last answer is complete.",
        ),
    ] = "1,4,16"
    rate: Annotated[
        float | None,
        option(
            panel=_LOAD, help="Open loop instead: requests per second, at random times.", min=0.001
        ),
    ] = None
    requests: Annotated[
        int | None,
        option(panel=_LOAD, help="Requests of each load; default: 4 for each client.", min=1),
    ] = None
    repeats: Annotated[int, option(panel=_LOAD, help="Runs of each load.", min=1)] = 1
    warm_up: Annotated[
        int, option(panel=_LOAD, help="Requests to each server that are not measured.", min=0)
    ] = 1
    timeout: Annotated[
        float,
        option(panel=_LOAD, help="Seconds after which an answer counts as failed.", min=0.001),
    ] = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """Options for what is sent."""

    prompts: Annotated[
        str,
        option(
            panel=_REQUESTS,
            metavar="NAME|FILE",
            help="A workload of `outrider bench`, or a file of JSON lines with prompts.",
        ),
    ] = "dialogue"
    max_tokens: Annotated[
        int, option(panel=_REQUESTS, help="Tokens of an answer at most.", min=1)
    ] = 64
    temperature: Annotated[
        float, option(panel=_REQUESTS, help="Temperature of the requests.", min=0.0)
    ] = 0.0
    field: Annotated[
        list[str] | None,
        option(
            panel=_REQUESTS,
            metavar="NAME=JSON",
            help="A further field of each request, such as ignore_eos=true. Repeatable.",
        ),
    ] = None

    def bodies(self) -> list[dict[str, Any]]:
        """Return the requests, without the model."""
        import json

        from outrider.bench.workloads import as_chat, read_workloads

        more: dict[str, Any] = {}
        for given in self.field or ():
            name, equals, value = given.partition("=")
            try:
                more[name] = json.loads(value)
            except ValueError:
                equals = ""
            if not equals:
                raise OptionError(
                    f"--field is {given!r:.60}", hint="Give NAME=JSON, such as seed=1"
                )
        settings = {"max_tokens": self.max_tokens, "temperature": self.temperature, **more}
        return [
            {"messages": as_chat(task.prompt), **settings}
            for task in read_workloads(self.prompts.split(","))
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Objectives:
    """Options for goodput: the requests per second that meet all limits."""

    slo_ttft: Annotated[
        float | None,
        option(panel=_OBJECTIVE, help="Milliseconds until the first text.", min=0.0),
    ] = None
    slo_tpot: Annotated[
        float | None, option(panel=_OBJECTIVE, help="Milliseconds for each further token.", min=0.0)
    ] = None
    slo_e2e: Annotated[
        float | None, option(panel=_OBJECTIVE, help="Milliseconds until the end.", min=0.0)
    ] = None

    def objective(self) -> "Objective | None":
        """Return the limits in seconds; None if none is given."""
        from outrider.bench.serve.figures import Objective

        given = [self.slo_ttft, self.slo_tpot, self.slo_e2e]
        if all(limit is None for limit in given):
            return None
        first, each, total = (limit if limit is None else limit / 1000.0 for limit in given)
        return Objective(first=first, per_token=each, total=total)


def serve(
    servers: Servers,
    loads: Loads,
    requests: Requests,
    objectives: Objectives,
    json: Annotated[
        bool, option("--json", panel="Output", help="Print one JSON object for each run.")
    ] = False,
    out: Annotated[
        Path | None, option(panel="Output", help="Write the runs, with texts, as JSON lines.")
    ] = None,
) -> None:
    """Measure servers under load, over HTTP.

    Any server with the OpenAI API can be measured, and several are measured in
    turn. ttft is the time until the first text, tpot the time for each token after
    it, itl the time between two events with text (a round can write several
    tokens), e2e the whole time.

    For example:

      outrider serve --target smollm2 &
      outrider bench serve --clients 1,4,16
      outrider bench serve --rate 2 --slo-ttft 500 --slo-tpot 50
      outrider bench serve --url http://127.0.0.1:8000/v1 --url http://127.0.0.1:8080/v1
    """
    from outrider.bench.serve.run import Server, find_model, measure, summary

    key = servers.key or os.environ.get("OPENAI_API_KEY")
    bodies, wanted = requests.bodies(), _loads(loads)
    found = [
        Server(url=url, model=servers.model or find_model(url, key), key=key)
        for url in servers.url or [_URL]
    ]
    objective, screen = objectives.objective(), Screen()
    with _progress(screen) as told:
        if loads.warm_up:
            measure(found, [_closed(1, loads.warm_up)], bodies[-loads.warm_up :])
        records = measure(
            found,
            wanted,
            bodies,
            repeats=loads.repeats,
            timeout=loads.timeout,
            objective=objective,
            told=told,
        )
    if out is not None:
        _write(out, records)
    if json:
        for record in records:
            print_json({name: value for name, value in record.items() if name != "texts"})
    else:
        screen.table("Servers under load", [_shown(row) for row in summary(records)])
        share = max(record["client_cpu"] for record in records)
        screen.note(f"the generator of the load used up to {share:.0%} of a processor")
        if again := sum(record["repeated"] for record in records) // len(found):
            screen.note(f"{again} requests were sent before: give a larger file of --prompts")
    for error in sorted({error for record in records for error in record["errors"]}):
        screen.note(f"failed: {error}")
    if all(record["failed"] == record["requests"] for record in records):
        raise typer.Exit(1)


def _loads(loads: Loads) -> "list[Load]":
    from outrider.bench.serve.run import Load

    if loads.rate is not None:
        return [Load(clients=None, rate=loads.rate, requests=loads.requests or 32)]
    try:
        counts = [int(count) for count in loads.clients.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise OptionError(
            f"--clients is {loads.clients!r:.40}", hint="Give numbers, such as 1,4,16"
        )
    return [_closed(count, loads.requests or 4 * count) for count in counts]


def _closed(clients: int, requests: int) -> "Load":
    from outrider.bench.serve.run import Load

    return Load(clients=clients, rate=None, requests=requests)


def _progress(screen: Screen) -> Any:
    """Return a context manager that gives a function to report progress with."""
    from contextlib import contextmanager

    from rich.progress import Progress

    @contextmanager
    def shown() -> Any:
        hidden = not screen.err.is_terminal
        with Progress(console=screen.err, transient=True, disable=hidden) as bar:
            task = bar.add_task("sending", total=None)
            yield lambda what, done: bar.update(task, completed=done, description=what)

    return shown()


def _write(out: Path, records: list[dict[str, Any]]) -> None:
    import json

    with writing(out):
        out.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """Return one row of the table."""
    ratio = row["ratio"]
    shown = {
        "load": row["load"],
        "server": row["server"],
        "tokens/s": f"{row['tokens_per_second']:.1f}",
        "ratio": ""
        if ratio is None
        else f"{ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
    }
    for name in ("ttft", "tpot", "itl", "e2e"):
        pair = (row[f"{name}_p50"], row[f"{name}_p95"])
        shown[f"{name}, ms (p95)"] = "" if pair[0] is None else f"{pair[0]:.0f} ({pair[1]:.0f})"
    if "goodput" in row:
        shown["goodput/s"] = f"{row['goodput']:.2f} ({row['met']:.0%})"
    if row["failed"]:
        shown["failed"] = str(row["failed"])
    return shown
