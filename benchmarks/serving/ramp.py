"""Throughput from 1 client to 64 and back, drafted and undrafted.

    python -m benchmarks.serving.ramp MODEL --prompts question.jsonl.zst --out runs/ramp.jsonl

Speculation must not lower the throughput at any load: at each number of clients, the ratio of the
drafted to the undrafted throughput. Each arm has an engine and models of its own, so that no
drafter remembers what another arm wrote; clients send the next prompt once they have an answer, in
the same order in all arms, and no prompt is sent twice. The arms run in turn in slices of a second,
the first one alternating, so that a busy moment of the machine meets all of them; a pair of slices
gives one ratio. A line is written for each level as it ends. `report` prints the table.

Repeats on other prompts: `--skip` and the number that the run before printed last.
"""

import argparse
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import quantiles

from benchmarks.serving.feeding import Feeder

import outrider
from outrider.bench.workloads import read_workloads
from outrider.engine.serving.settings import ServingSettings

LEVELS = (1, 2, 4, 8, 16, 32, 64, 32, 16, 8, 4, 2, 1)
ARMS = {"undrafted": "none", "drafted": "exact"}

Pair = dict[str, tuple[int, float]]
"""By arm, the tokens and seconds of a slice."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model, or 'report'")
    parser.add_argument("--prompts", nargs="+", default=["dialogue"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--longest", type=int, default=400, help="tokens of a prompt, at most")
    parser.add_argument("--levels", type=int, nargs="*", default=LEVELS)
    parser.add_argument("--slices", type=int, default=12, help="of each level and arm")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a slice")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--skip", type=int, default=0, help="prompts of earlier repeats")
    options = parser.parse_args(arguments)
    if options.model != "report":
        for record in measured(options):
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print({k: v for k, v in record.items() if k != "pairs"}, flush=True)
    report(options.out)


def measured(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Run each level on all arms."""
    arms = {name: _feeder(options, mode) for name, mode in ARMS.items()}
    prompts = _prompts(options, arms["drafted"])
    for place, level in enumerate(options.levels):
        for feeder in arms.values():  # the first slice of a level begins texts and is not counted
            feeder.clients = level
            feeder.settle()
            feeder.run(options.seconds)
        pairs: list[Pair] = []
        for turn in range(options.slices):
            order = sorted(arms, reverse=bool((turn + place) % 2))
            pairs.append({name: arms[name].run(options.seconds) for name in order})
        texts, others = (feeder.texts for feeder in arms.values())
        both = texts.keys() & others.keys()
        yield {
            "level": level,
            "place": place,
            "threads": options.threads,
            "temperature": options.temperature,
            "pairs": pairs,
            "texts": len(both),
            "differ": sum(texts[id] != others[id] for id in both),
            "sent": max(feeder.sent for feeder in arms.values()),
            "of": len(prompts),
            "load": os.getloadavg()[0],
        }
        for feeder in arms.values():
            for id in both:
                del feeder.texts[id]


def _feeder(options: argparse.Namespace, mode: str) -> Feeder:
    feeder = Feeder(
        outrider.load(options.model, threads=options.threads, mode=mode),
        ServingSettings(max_num_seqs=options.max_num_seqs),
        tokens=options.tokens,
        temperature=options.temperature,
    )
    feeder.prompts = _prompts(options, feeder)
    feeder.sent = options.skip
    return feeder


def _prompts(options: argparse.Namespace, feeder: Feeder) -> list[tuple[int, ...]]:
    codec = feeder.generator.tokenizer
    assert codec is not None
    found: list[tuple[int, ...]] = []
    for task in read_workloads(options.prompts):
        messages = task.prompt
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        ids = codec.chat(messages)
        if len(ids) <= options.longest:
            found.append(ids)
    return found


def report(out: Path) -> None:
    """Print the table by level: tokens over seconds of all slices; intervals by drawing pairs of
    slices, which meet the same load, with replacement."""
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    print("| clients | undrafted | drafted | ratio | texts | that differ |")
    print("|--:|--:|--:|--:|--:|--:|")
    everything: list[Pair] = []
    for level in sorted({r["level"] for r in records}):
        runs = [r for r in records if r["level"] == level]
        pairs: list[Pair] = [pair for run in runs for pair in run["pairs"]]
        everything += pairs
        texts, differ = (sum(run[name] for run in runs) for name in ("texts", "differ"))
        speeds = " | ".join(f"{_speed([pair[name] for pair in pairs]):.0f}" for name in ARMS)
        print(f"| {level} | {speeds} | {_ratio(pairs)} | {texts} | {differ} |")
    print(f"| all | | | {_ratio(everything)} | | |")


def _ratio(pairs: Sequence[Pair]) -> str:
    chance = random.Random(0)
    drawn = [_of(chance.choices(pairs, k=len(pairs))) for _ in range(1000)]
    low, *_, high = quantiles(drawn, n=40)
    return f"{_of(pairs):.2f} [{low:.2f}, {high:.2f}]"


def _of(pairs: Sequence[Pair]) -> float:
    undrafted, drafted = (_speed([pair[name] for pair in pairs]) for name in ARMS)
    return drafted / undrafted


def _speed(slices: Sequence[tuple[int, float]]) -> float:
    return sum(tokens for tokens, _ in slices) / sum(seconds for _, seconds in slices)


if __name__ == "__main__":
    main()
