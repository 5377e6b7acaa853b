"""Throughput from 1 client to 64 and back, drafted and undrafted.

    python -m benchmarks.serving.ramp MODEL --prompts question.jsonl.zst --out runs/ramp.jsonl

Speculation must not lower the throughput at any load: at each number of clients, the time of the
undrafted arm over that of the drafted one, for the same requests. Each arm has an engine and models
of its own, so that no drafter remembers what another arm wrote; clients send the next prompt once
they have an answer, in the same order in both arms, and no prompt is sent twice. The arms run in
turn in slices of half a second, so that a busy moment of the machine meets both. The time of a
block ends when its requests have ended; the clients go on with those of the next block. A line is
written for each level as it ends. `report` prints the table.

With `--profile FILE`, the drafted arm follows that profile of `outrider tune`.

Repeats on other prompts: `--skip` and the number that the run before printed as `sent`.
"""

import argparse
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import outrider
from outrider.bench.statistics import Ratio
from outrider.bench.workloads import as_chat, read_workloads
from outrider.engine.serving.settings import ServingSettings
from outrider.tuning.concurrency.blocks import block_seconds
from outrider.tuning.concurrency.feeder import Feeder

LEVELS = (1, 2, 4, 8, 16, 32, 64, 32, 16, 8, 4, 2, 1)
ARMS = {"undrafted": "none", "drafted": "exact"}

Arms = dict[str, Feeder]
Block = dict[str, float]
"""By arm, the seconds of the same requests, and their tokens."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model, or 'report'")
    parser.add_argument("--prompts", nargs="+", default=["dialogue"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--profile", default="none", help="what the drafted arm follows")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--longest", type=int, default=400, help="tokens of a prompt, at most")
    parser.add_argument("--levels", type=int, nargs="*", default=LEVELS)
    parser.add_argument("--blocks", type=int, default=3, help="of each level")
    parser.add_argument("--requests", type=int, default=8, help="of a block, at least")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a slice")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--skip", type=int, default=0, help="prompts of earlier repeats")
    options = parser.parse_args(arguments)
    if options.model != "report":
        for record in measured(options):
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print({k: v for k, v in record.items() if k != "blocks"}, flush=True)
    report(options.out)


def measured(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Run each level on all arms."""
    arms = {name: _feeder(options, mode) for name, mode in ARMS.items()}
    prompts = _prompts(options, arms["drafted"])
    for place, level in enumerate(options.levels):
        for feeder in arms.values():
            feeder.clients = level
            feeder.settle()
        before = dict(arms["drafted"].engine.state.counters)
        blocks = [_block(arms, options, level, number + place) for number in range(options.blocks)]
        texts, others = (feeder.texts for feeder in arms.values())
        both = texts.keys() & others.keys()
        yield {
            "level": level,
            "place": place,
            "threads": options.threads,
            "profile": options.profile,
            "temperature": options.temperature,
            "blocks": blocks,
            "texts": len(both),
            "differ": sum(texts[id] != others[id] for id in both),
            "sent": max(feeder.sent for feeder in arms.values()),
            "of": len(prompts),
            "load": os.getloadavg()[0],
        } | {
            name: count - before.get(name, 0)
            for name, count in arms["drafted"].engine.state.counters.items()
            if name in ("draft_tokens", "accepted_tokens")
        }


def _block(arms: Arms, options: argparse.Namespace, level: int, number: int) -> Block:
    """Serve some requests with both arms in turn; return their tokens, and the seconds of each."""
    begin = max(feeder.sent for feeder in arms.values())
    until = begin + min(max(options.requests, 2 * level), 6 * options.requests)
    order = sorted(arms, reverse=bool(number % 2))
    spent = block_seconds(arms, order, until, options.seconds)
    texts = arms["undrafted"].texts
    return spent | {"tokens": sum(len(texts[f"{id}/0"]) for id in range(begin, until))}


def _feeder(options: argparse.Namespace, mode: str) -> Feeder:
    drafted: dict[str, str] = {"profile": options.profile} if mode != "none" else {"mode": mode}
    feeder = Feeder(
        outrider.load(options.model, threads=options.threads, **drafted),
        ServingSettings(max_num_seqs=options.max_num_seqs),
        sampling={
            "max_new_tokens": options.tokens,
            "temperature": options.temperature,
            "seed": 0,
        },
    )
    feeder.prompts = _prompts(options, feeder)
    feeder.begin(options.skip)
    return feeder


def _prompts(options: argparse.Namespace, feeder: Feeder) -> list[tuple[int, ...]]:
    codec = feeder.generator.tokenizer
    assert codec is not None
    found: list[tuple[int, ...]] = []
    for task in read_workloads(options.prompts):
        ids = codec.chat(as_chat(task.prompt))
        if len(ids) <= options.longest:
            found.append(ids)
    random.Random(1).shuffle(found)  # files are grouped by category
    return found


def report(out: Path) -> None:
    """Print the table by level; intervals by drawing blocks with replacement."""
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    print("| clients | undrafted | drafted | ratio | blocks | texts | that differ |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    everything: list[Block] = []
    for level in sorted({r["level"] for r in records}):
        runs = [r for r in records if r["level"] == level]
        blocks: list[Block] = [block for run in runs for block in run["blocks"]]
        everything += blocks
        texts, differ = (sum(run[name] for run in runs) for name in ("texts", "differ"))
        written = sum(block["tokens"] for block in blocks)
        speeds = [f"{written / sum(block[name] for block in blocks):.0f}" for name in ARMS]
        shown = [*speeds, _ratio(blocks), len(blocks), texts, differ]
        print("|", " | ".join(map(str, [level, *shown])), "|")
    print(f"| all | | | {_ratio(everything)} | {len(everything)} | | |")


def _ratio(blocks: Sequence[Block]) -> str:
    ratio = Ratio.of([block["undrafted"] / block["drafted"] for block in blocks])
    assert ratio is not None
    return f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


if __name__ == "__main__":
    main()
