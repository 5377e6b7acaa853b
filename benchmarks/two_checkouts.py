"""Is one checkout slower than another? The same texts, written by both in turn in one run.

    git clone . /tmp/before && git -C /tmp/before checkout REVISION
    python -m benchmarks.two_checkouts --before /tmp/before --out runs/two.jsonl

Each checkout runs in a process of its own that stays alive, so that loading is not measured. One
process may be a few percent faster than another one of the same code (where its memory lies, which
core it got), so both are started anew several times, the one that is first in turn. Every text is
written by both, the one that is first changes from pair to pair, and both texts must be equal. The
ratio of a pair is the speed after the change divided by the speed before it: above 1 is faster. A
line for each pair goes to the file as soon as it is measured.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
STRATEGIES: dict[str, dict[str, Any]] = {"undrafted": {"mode": "none"}, "auto": {}}
GOAL = 0.98


def work() -> None:
    """Answer requests on standard input, one JSON object a line: a text, and how long it took."""
    settings = json.loads(sys.stdin.readline())
    import outrider

    generators = {}
    for name, options in STRATEGIES.items():
        tiers = {} if name == "undrafted" else settings["tiers"]
        generators[name] = outrider.load(settings["target"], **tiers, **settings["how"], **options)
    print(json.dumps({"package": outrider.__file__}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        generator = generators[asked["strategy"]]
        generator.reset()
        begun = perf_counter()
        result = generator.generate(asked["prompt"], **settings["sampling"])
        seconds = perf_counter() - begun
        print(json.dumps({"seconds": seconds, "ids": list(result.token_ids)}), flush=True)


@dataclass
class Worker:
    """A checkout that writes texts in a process of its own."""

    process: subprocess.Popen[str]
    package: str = ""

    @classmethod
    def start(cls, checkout: Path, settings: dict[str, Any]) -> "Worker":
        """Start a process that imports `outrider` from `checkout`."""
        command = [sys.executable, str(Path(__file__)), "--work"]
        env = os.environ | {"PYTHONPATH": str(checkout / "src")}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        worker = cls(subprocess.Popen(command, text=True, env=env, cwd="/", **pipes))
        worker.package = worker.ask(settings)["package"]
        if not worker.package.startswith(str(checkout.resolve())):
            sys.exit(f"{worker.package} is not below {checkout}: give a checkout with src/outrider")
        return worker

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a line, return the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps(message)}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a worker has ended; its error stands above")
        return json.loads(line)

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def pairs(
    before: Worker, after: Worker, prompts: list[Any], numbers: range
) -> Iterator[dict[str, Any]]:
    """Every prompt by both, under each strategy, a pair of each for every number."""
    for number in numbers:
        for strategy in STRATEGIES:
            asked = {"strategy": strategy, "prompt": prompts[number % len(prompts)]}
            order = [("before", before), ("after", after)]
            found = {name: worker.ask(asked) for name, worker in order[:: 1 - 2 * (number % 2)]}
            old, new = found["before"], found["after"]
            yield {
                "pair": number,
                "strategy": strategy,
                "tokens": len(old["ids"]),
                "equal": old["ids"] == new["ids"],
                "before": old["seconds"],
                "after": new["seconds"],
                "ratio": old["seconds"] / new["seconds"],
            }


def block(
    options: argparse.Namespace,
    settings: dict[str, Any],
    prompts: list[Any],
    numbers: range,
    *,
    swapped: bool,
) -> Iterator[dict[str, Any]]:
    """The pairs of two fresh processes, the second checkout started first if `swapped`."""
    folders = {"before": options.before, "after": options.after}
    order = list(folders)[:: -1 if swapped else 1]
    workers = {name: Worker.start(folders[name], settings) for name in order}
    for strategy in STRATEGIES:  # what is loaded lazily is not measured
        for worker in workers.values():
            worker.ask({"strategy": strategy, "prompt": prompts[0]})
    yield from pairs(workers["before"], workers["after"], prompts, numbers)
    for worker in workers.values():
        worker.stop()


def summary(rows: list[dict[str, Any]], strategy: str) -> dict[str, Any]:
    """Median of the medians of all restarts, and its 95 % interval by resampling restarts."""
    import numpy as np

    own = [row for row in rows if row["strategy"] == strategy]
    blocks = sorted({row["restart"] for row in own})
    ratios = np.array(
        [np.median([row["ratio"] for row in own if row["restart"] == b]) for b in blocks]
    )
    picked = np.random.default_rng(0).integers(len(ratios), size=(10_000, len(ratios)))
    low, high = np.quantile(np.median(ratios[picked], axis=1), (0.025, 0.975))
    speeds = {
        side: round(float(np.median([row["tokens"] / row[side] for row in own])), 1)
        for side in ("before", "after")
    }
    return {
        "strategy": strategy,
        "pairs": len(own),
        "restarts": [round(float(ratio), 4) for ratio in ratios],
        "ratio": round(float(np.median(ratios)), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "tokens_per_second": speeds,
        "equal_texts": sum(row["equal"] for row in own),
        "load_average": os.getloadavg()[0],
    }


def measure(options: argparse.Namespace) -> int:
    """Run, print a line for each strategy; 1 where a text differs or the goal is missed."""
    from outrider.bench.scaling.scale import cost_scale
    from outrider.bench.workloads import WORKLOADS, read_workloads
    from outrider.models.sources.families import family

    tiers = family("tiny")
    target = cost_scale(tiers["target"], options.scale, options.scaled)
    settings = {
        "target": str(target),
        "tiers": {name: str(tiers[name]) for name in ("qualifier", "draft")},
        "how": {"dtype": options.dtype, "threads": options.threads},
        "sampling": {"max_new_tokens": options.max_new_tokens, "temperature": 0.0, "seed": 1},
    }
    prompts = [task.prompt for task in read_workloads(list(WORKLOADS))]
    rows: list[dict[str, Any]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    each = -(-options.pairs // options.restarts)
    with options.out.open("w", encoding="utf-8") as file:
        for restart in range(options.restarts):
            numbers = range(restart * each, min((restart + 1) * each, options.pairs))
            for row in block(options, settings, prompts, numbers, swapped=bool(restart % 2)):
                rows.append(row | {"restart": restart})
                print(json.dumps(rows[-1]), file=file, flush=True)
    found = [summary(rows, strategy) for strategy in STRATEGIES]
    for line in found:
        print(json.dumps(line))
    return int(any(f["ratio"] < GOAL or f["equal_texts"] < f["pairs"] for f in found))


def main() -> int:
    """Measure, or work for a process that does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--before", type=Path, help="checkout before the change")
    parser.add_argument("--after", type=Path, default=ROOT, help="checkout after it; default: this")
    parser.add_argument("--out", type=Path, default=Path("runs/two-checkouts.jsonl"))
    parser.add_argument("--scaled", type=Path, default=Path("runs/two-checkouts-target"))
    parser.add_argument("--scale", default="30M", help="parameters of the target")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=200, help="pairs for each strategy")
    parser.add_argument("--restarts", type=int, default=10, help="times both are started anew")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args()
    if options.work:
        work()
        return 0
    if options.before is None:
        parser.error("--before DIR is missing: a checkout of the version before the change")
    options.scaled = options.scaled.resolve()
    return measure(options)


if __name__ == "__main__":
    sys.exit(main())
