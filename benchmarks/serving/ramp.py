"""Throughput from 1 client to 64 and back, drafted and undrafted.

    python -m benchmarks.serving.ramp MODEL --prompts question.jsonl.zst --out runs/ramp.jsonl

Speculation must not lower the throughput at any load: at each number of clients, the ratio of the
drafted to the undrafted throughput. Both arms run in turn, level by level, on the same prompts,
each with models of its own, so that no drafter remembers what the other arm wrote. A prompt is
sent once to each arm. A line for each level is written as it comes; a second run adds repeats, on
other prompts. `report` prints the table of the records.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks.serving.feeding import Feeder

import outrider
from outrider.bench.statistics import Ratio
from outrider.bench.workloads import as_chat, read_workloads
from outrider.engine.serving.settings import ServingSettings

LEVELS = (1, 2, 4, 8, 16, 32, 64, 16, 4, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model, or 'report'")
    parser.add_argument("--prompts", default="dialogue")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--longest", type=int, default=400, help="tokens of a prompt, at most")
    parser.add_argument("--levels", type=int, nargs="*", default=LEVELS)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--skip", type=int, default=0, help="prompts of earlier repeats")
    options = parser.parse_args(arguments)
    if options.model != "report":
        for record in measured(options):
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(record, flush=True)
    report(options.out)


def measured(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Run each level on both arms, the arm that begins alternating."""
    arms = {
        name: Feeder(
            outrider.load(options.model, threads=options.threads, mode=mode),
            ServingSettings(max_num_seqs=options.max_num_seqs),
            tokens=options.tokens,
            temperature=options.temperature,
        )
        for name, mode in (("drafted", "exact"), ("undrafted", "none"))
    }
    codec = arms["drafted"].generator.tokenizer
    assert codec is not None
    prompts: list[tuple[int, ...]] = []
    for task in read_workloads([options.prompts]):
        ids = codec.chat(as_chat(task.prompt))
        if len(ids) <= options.longest:
            prompts.append(ids)
    at = options.skip
    for place, level in enumerate(options.levels):
        count = max(2 * level, 6)
        own = [(f"{place}-{i}", prompts[(at + i) % len(prompts)]) for i in range(count)]
        at += count
        speeds: dict[str, float] = {}
        for name in sorted(arms, reverse=bool(place % 2)):
            speeds[name] = arms[name].closed(iter(own), level)
        same = all(
            arms["drafted"].texts[f"{id}/0"] == arms["undrafted"].texts[f"{id}/0"] for id, _ in own
        )
        yield {
            "level": level,
            "place": place,
            "skip": options.skip,
            "threads": options.threads,
            "temperature": options.temperature,
            "requests": count,
            **speeds,
            "ratio": speeds["drafted"] / speeds["undrafted"],
            "same": same,
            "load": os.getloadavg()[0],
        }


def report(out: Path) -> None:
    """Print the table by level."""
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    print("| clients | undrafted | drafted | ratio | runs | texts that differ |")
    print("|--:|--:|--:|--:|--:|--:|")
    for level in sorted({r["level"] for r in records}):
        runs = [r for r in records if r["level"] == level]
        ratio = Ratio.of([r["ratio"] for r in runs])
        assert ratio is not None
        speeds = [f"{median(r[name] for r in runs):.0f}" for name in ("undrafted", "drafted")]
        shown = f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        differ = sum(not r["same"] for r in runs)
        print(f"| {level} | {' | '.join(speeds)} | {shown} | {len(runs)} | {differ} |")


if __name__ == "__main__":
    main()
