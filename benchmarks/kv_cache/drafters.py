"""Policies on the drafter alone: the text stays, and drafts over a long text become cheap.

    python -m benchmarks.kv_cache.drafters MODEL --data DIR --out runs/kv --length 7600

The target reads everything and writes its own greedy text; that is checked by equality. It drafts
for itself: the draft model has the same weights, and a cache of its own, whole or under a policy.
At this length most of the time of a token goes into reading the cache, so that a draft over a short
cache costs a fraction. For comparison, the draft head that ships with the model, which reads the
last 256 tokens of a prompt, or all of it. Systems take turns, prompt by prompt.
"""

import argparse
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from benchmarks.kv_cache.prompts import books, passages
from benchmarks.long_inputs.inputs.texts import Library
from benchmarks.long_inputs.records import Records, options

import outrider
from outrider.bench.statistics import Ratio, first_difference
from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.models.caches.eviction.snapkv import SnapKV
from outrider.models.caches.eviction.streaming import Streaming
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model, tokenizer_for
from outrider.models.sources.finding import local_folder

UNDRAFTED = "undrafted"
WHOLE = "draft model, whole cache"


def systems(args: argparse.Namespace, target: Any, codec: Tokenizer) -> dict[str, Generator]:
    """Generators over one target, by the name reports give them."""
    common: dict[str, Any] = {"tokenizer": codec, "qualifier": "none", "guard": "off"}

    def drafted(draft: Any, depth: int) -> Generator:
        return outrider.load(
            target, draft=draft, drafter="model", num_speculative_tokens=depth, **common
        )

    found = {
        UNDRAFTED: outrider.load(target, draft="none", mode="none", **common),
        WHOLE: drafted(target, args.depth),
    }
    for rows in args.rows:
        own = target.under(Streaming(budget=rows))
        found[f"streaming, {rows} rows"] = drafted(own, args.depth)
    own = target.under(SnapKV(budget=args.rows[-1]))
    found[f"snapkv, {args.rows[-1]} rows"] = drafted(own, args.depth)
    if args.head:
        found["draft head"] = outrider.load(
            target, draft=args.head, drafter="hinted", num_speculative_tokens=3, **common
        )
    return found


def write(generator: Generator, prompt: Prompt, tokens: int) -> dict[str, Any]:
    """Write one text. Prompts of the target and of the draft model are read before the decoding."""
    generator.reset()
    begun = process_time()
    result = generator.generate(prompt, temperature=0, max_new_tokens=tokens, ignore_eos=True)
    processor = process_time() - begun
    counts, total = result.speculation.to_dict(), result.seconds["total"]
    return {
        "token_ids": list(result.token_ids),
        "processor": processor,
        "prefill": result.seconds["prefill"],
        "token": (total - result.seconds["prefill"]) / tokens,
        "total": total,
        "accepted": counts["accepted"],
        "drafted": counts["drafted"],
        "length": counts["mean_accepted_length"],
    }


def measure(args: argparse.Namespace, records: Records, target: Any, codec: Tokenizer) -> None:
    """All systems on all prompts, in turn."""
    own = systems(args, target, codec)
    cases = list(passages(Library(codec), books(args.data), args.length, 8, args.texts))
    for number, case in enumerate(cases):
        names = list(own)[number % len(own) :] + list(own)[: number % len(own)]
        for name in names:
            key = f"{name}, {number}"
            if key not in records.keys:
                line = write(own[name], case.prompt, args.tokens)
                records.add("run", key=key, system=name, text=number, **line)
                print(key, {k: v for k, v in line.items() if k != "token_ids"}, flush=True)
            if perf_counter() - args.begun > args.seconds:
                return


def summarise(records: Records) -> None:
    """A row for each system."""
    by: dict[str, dict[int, dict[str, Any]]] = {}
    for run in records.of("run"):
        by.setdefault(run["system"], {})[run["text"]] = run
    for name, own in by.items():
        base = {text: by[UNDRAFTED][text] for text in own if text in by[UNDRAFTED]}
        if not base:
            continue
        same = [
            first_difference(own[text]["token_ids"], run["token_ids"]) is None
            for text, run in base.items()
        ]
        cells = [f"| {name} | {sum(same)} of {len(same)} |"]
        drafted = sum(run["drafted"] for run in own.values())
        accepted = sum(run["accepted"] for run in own.values())
        cells.append(f" {accepted / drafted:.0%} |" if drafted else " |")
        cells.append(f" {median(run['prefill'] for run in own.values()):.1f} s |")
        cells.append(f" {1e3 * median(run['token'] for run in own.values()):.1f} ms |")
        for clock in ("token", "total", "processor"):
            ratio = Ratio.of([run[clock] / own[text][clock] for text, run in base.items()])
            if ratio is not None:
                cells.append(f" {ratio.mean:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] |")
        print("".join(cells))


def main() -> None:
    """Measure all of it."""
    parser = options(__doc__)
    parser.add_argument("model")
    parser.add_argument("--length", type=int, default=7600)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--texts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--head", default="", help="a folder with a draft head")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--cache-dtype", default="bfloat16")
    parser.add_argument("--seconds", type=float, default=3600)
    args = parser.parse_args()
    args.begun = perf_counter()
    torch.set_num_threads(1)
    folder = local_folder(args.model)
    target: Any = load_model(folder, dtype=args.dtype, cache_dtype=args.cache_dtype, threads=1)
    codec = tokenizer_for(args.model)
    assert isinstance(codec, Tokenizer)
    records = Records(
        args.out / f"drafters-{args.length}.jsonl",
        {"model": args.model, "length": args.length, "depth": args.depth, "tokens": args.tokens},
    )
    measure(args, records, target, codec)
    summarise(records)


if __name__ == "__main__":
    main()
