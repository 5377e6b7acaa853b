"""Speed and memory of decoding after a long prompt, under each policy of the cache.

    python -m benchmarks.kv_cache.speed MODEL --data DIR --out runs/kv --length 8000 --budget 0.25

Passages of novels are read once for all systems that read them whole (`sharing.py`), and on their
own by the others. Then each system writes `--tokens` greedy tokens, without drafts, in turn and in
another order for each passage; the first `--warm` tokens do not count. Reported: time of a token,
relative to full attention on the same passage (geometric means of paired ratios with bootstrap
intervals), in wall time and in processor time; seconds until the prompt is read; bytes.

    python -m benchmarks.kv_cache.speed MODEL --data DIR --memory --length 8000 --budget 0.25

starts a process for each system, which reads one passage and writes tokens, and reports its
resident memory when the model is loaded, at the end, and at the highest point.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from benchmarks.kv_cache.prompts import Case, books, passages
from benchmarks.kv_cache.quality import bytes_of, policies
from benchmarks.kv_cache.sharing import Recorder, under
from benchmarks.long_inputs.inputs.texts import Library
from benchmarks.long_inputs.records import Records, options

from outrider.bench.statistics import Ratio
from outrider.core.types import NO_IDS, as_ids
from outrider.models.caches.eviction.heads.gates import Gates
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model, tokenizer_for
from outrider.models.sources.finding import local_folder
from outrider.protocols import Cache, LanguageModel, Segment


def write(model: LanguageModel, cache: Cache, tokens: int, warm: int) -> dict[str, float]:
    """Write greedy tokens; return milliseconds of a token behind the first ones."""
    begun = (0.0, 0.0)
    for index in range(tokens + warm):
        if index == warm:
            begun = (perf_counter(), process_time())
        [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
        cache.commit(as_ids([int(rows.logits[0].argmax())]))
    wall, processor = perf_counter() - begun[0], process_time() - begun[1]
    return {"wall": 1e3 * wall / tokens, "processor": 1e3 * processor / tokens}


def systems(
    args: argparse.Namespace, model: Any
) -> tuple[dict[str, KvPolicy], dict[str, KvPolicy]]:
    """The policies that read a prompt whole, and the others, by name."""
    config = model.config
    chance = Gates.random(config.num_layers, config.num_kv_heads, 0)
    rows = int(args.budget * args.length)

    def made(makes: dict[str, Any]) -> dict[str, KvPolicy]:
        return {
            name: make(args.budget if name.startswith("heads") else rows)
            for name, make in makes.items()
            if name in args.systems
        }

    whole, reading = policies({"chance": chance})
    return made(whole), made(reading)


def measure(args: argparse.Namespace, records: Records, model: Any, cases: list[Case]) -> None:
    """All systems on all passages, in turn."""
    whole, reading = systems(args, model)
    for number, case in enumerate(cases):
        if case.key in records.keys:
            continue
        recorder = Recorder(policies=list(whole.values()))
        runs: dict[str, Any] = {}
        seconds = {}
        begun = process_time()
        [cache] = model.under(recorder).start([case.prompt])
        write(model.under(recorder), cache, 1, 0)  # policies act when the last token is read
        seconds["full"] = process_time() - begun
        runs["full"] = (model.under(recorder), cache)
        for name, policy in whole.items():
            own = model.under(policy)
            begun = process_time()
            twin = under(cache, recorder, policy)
            seconds[name] = seconds["full"] + process_time() - begun
            twin.layout = own._layout
            runs[name] = (own, twin)
        for name, policy in reading.items():
            own = model.under(policy)
            begun = process_time()
            runs[name] = (own, own.start([case.prompt])[0])
            seconds[name] = process_time() - begun
        order = list(runs)[number % len(runs) :] + list(runs)[: number % len(runs)]
        found = {}
        for name in [*order, *order[::-1]]:
            own, first = runs[name]
            found.setdefault(name, []).append(write(own, first.fork(), args.tokens, args.warm))
        records.add(
            "passage",
            key=case.key,
            found=found,
            bytes={name: bytes_of(own) for name, (_, own) in runs.items()},
            prefill=seconds,
        )
        print(f"{number + 1} of {len(cases)} passages", flush=True)
        if perf_counter() - args.begun > args.seconds:
            return


def summarise(records: Records) -> None:
    """A row for each system."""
    rows = records.of("passage")
    for name in rows[0]["found"]:
        own = [row for row in rows if name in row["found"]]
        cells = [f"| {name} |"]
        for clock in ("wall", "processor"):
            times = [median(run[clock] for run in row["found"][name]) for row in own]
            base = [median(run[clock] for run in row["found"]["full"]) for row in own]
            ratio = Ratio.of([b / t for b, t in zip(base, times, strict=True)])
            cells.append(f" {median(times):.1f} ms |")
            if ratio is not None:
                cells.append(f" {ratio.mean:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] |")
        cells.append(f" {median(row['prefill'][name] for row in own):.1f} s |")
        cells.append(f" {median(row['bytes'][name] for row in own) / 1e6:.0f} MB |")
        print("".join(cells))


def memory(args: argparse.Namespace) -> None:
    """Start a process for each system."""
    for name in args.systems:
        command = [sys.executable, "-m", "benchmarks.kv_cache.speed", args.model]
        command += ["--data", str(args.data), "--out", str(args.out), "--child", name]
        command += ["--length", str(args.length), "--budget", str(args.budget)]
        command += ["--dtype", args.dtype, "--cache-dtype", args.cache_dtype]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="")


def child(args: argparse.Namespace, model: Any, case: Case) -> None:
    """Read one passage, write tokens, and print the resident memory."""
    args.systems = [args.child]
    whole, reading = systems(args, model)
    policy = (whole | reading).get(args.child)
    own = model if policy is None else model.under(policy)
    Path("/proc/self/clear_refs").write_text("5")  # the highest point begins anew
    loaded = _status("VmRSS")
    [cache] = own.start([case.prompt])
    write(own, cache, 8, 0)
    now, peak = _status("VmRSS"), _status("VmHWM")
    print(
        f"| {args.child} | {loaded:.0f} MB | {now - loaded:+.0f} MB | {peak - loaded:+.0f} MB | "
        f"{bytes_of(cache) / 1e6:.0f} MB |"
    )


def _status(field: str) -> float:
    """Read a figure of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"this system does not report {field}")


def main() -> None:
    """Measure all of it."""
    parser = options(__doc__)
    parser.add_argument("model")
    parser.add_argument("--length", type=int, default=8000)
    parser.add_argument("--budget", type=float, default=0.25)
    parser.add_argument("--texts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--warm", type=int, default=8)
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--cache-dtype", default="bfloat16")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--child", default="")
    known = ["streaming, prompt whole", "h2o", "snapkv", "heads by chance", "streaming", "infllm"]
    parser.add_argument("--systems", nargs="+", default=[*known, "actqkv"])
    args = parser.parse_args()
    args.begun = perf_counter()
    torch.set_num_threads(1)
    if args.memory:
        args.systems = ["full", *args.systems]
        memory(args)
        return
    folder = local_folder(args.model)
    model: Any = load_model(folder, dtype=args.dtype, cache_dtype=args.cache_dtype, threads=1)
    tokenizer = tokenizer_for(args.model)
    assert isinstance(tokenizer, Tokenizer)
    library, spare = Library(tokenizer), args.tokens + args.warm
    cases = list(passages(library, books(args.data), args.length, spare, args.texts))
    if args.child:
        child(args, model, cases[0])
        return
    settings = {"model": args.model, "length": args.length, "budget": args.budget}
    records = Records(args.out / f"speed-{args.length}-{args.budget:g}.jsonl", settings)
    measure(args, records, model, cases)
    summarise(records)


if __name__ == "__main__":
    main()
