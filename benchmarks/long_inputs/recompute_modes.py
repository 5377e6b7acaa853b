"""What stale rows cost: human summaries under each way to swap, on a target that can read it all.

    python -m benchmarks.long_inputs.recompute_modes --data DIR --out runs/recompute

The target is a stretched copy of the tiny one (`stretched.py`): the first `--read` tokens of
each document fit into its window, at their original positions. Nats per token of the human summary,
committed `--refresh` tokens at a time: with everything read (dense), with the first choice kept
(static), and with APCE under each way to recompute; and how many tokens were read again. Swaps are
made as often as the settings allow, more often than by default, since it is their cost that is
asked for. Intervals are 95 %, by bootstrap over documents; differences are paired.
"""

import argparse
from typing import Any

from benchmarks.long_inputs.inputs.summaries import Summary, read_summaries
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.long_inputs.likelihood import log_likelihoods
from benchmarks.long_inputs.records import Records, options
from benchmarks.long_inputs.selecting import Workshop, settings_of
from benchmarks.long_inputs.stretched import KIND, stretch

from outrider.context.config import ContextConfig
from outrider.context.selector import Selected
from outrider.models.loading import load_model
from outrider.models.sources.families import family
from outrider.protocols import LanguageModel

MODES = ("suffix", "partial", "new_only")


def measure(
    shop: Workshop, model: LanguageModel, item: Summary, args: argparse.Namespace
) -> dict[str, Any]:
    """Nats per token and tokens read again, by way of reading."""
    ids = shop.library.passage(item.references[0]).token_ids[: args.tokens]
    whole = shop.library.passage(item.text).token_ids[: args.read]
    text = shop.library.tokenizer.decode(whole)
    prompt = shop.library.prompt(text, item.asked, args.chunk_size)
    nats, _ = log_likelihoods(model, prompt, ids, args.refresh)
    found: dict[str, Any] = {"dense": {"nats": -sum(nats) / len(ids), "again": 0, "swaps": 0}}
    for mode in ("static", *MODES):
        config = ContextConfig(
            keep_ratio=args.keep_ratio,
            chunk_size=args.chunk_size,
            refresh=0 if mode == "static" else args.refresh,
            recompute=mode if mode in MODES else "suffix",
            hysteresis=args.hysteresis,
            max_swaps=2,
            positions="original",
        )
        selected = Selected(model, shop.ranker(args.selector, 0), config)
        nats, cache = log_likelihoods(selected, prompt, ids, args.refresh)
        reading = cache.reading
        found[mode] = {
            "nats": -sum(nats) / len(ids),
            "again": reading.recomputed,
            "swaps": reading.swaps,
        }
    return {"tokens": len(ids), "by": found}


def run(args: argparse.Namespace, records: Records) -> None:
    """All summaries; those that are there already are left out."""
    shop = Workshop.open(args.kept)
    folder = stretch(family("tiny")["target"], args.out / "target", args.factor)
    model = load_model(folder, dtype="float32", threads=1)
    for number, item in enumerate(read_summaries(args.data, args.documents, 1)):
        if item.name not in records.keys:
            found = measure(shop, model, item, args)
            records.add("summary", key=item.name, document=item.document, **found)
            print(f"{number + 1}: {item.name}", flush=True)


def summarise(records: Records) -> None:
    """Means, and paired differences to `suffix`, which is what a fresh prefill would give."""
    lines = records.of("summary")
    documents = [line["document"] for line in lines]
    tokens = sum(line["tokens"] for line in lines)
    for mode in lines[0]["by"]:
        values = [line["by"][mode]["nats"] for line in lines]
        gains = [v - line["by"]["suffix"]["nats"] for v, line in zip(values, lines, strict=True)]
        again, swaps = (
            1000 * sum(line["by"][mode][figure] for line in lines) / tokens
            for figure in ("again", "swaps")
        )
        mean, over = bootstrap(values, documents), bootstrap(gains, documents)
        records.add("table", mode=mode, nats=mean, over_suffix=over, again=again, swaps=swaps)
        print(
            f"{mode:9} {mean[0]:.4f}  over suffix {over[0]:+.4f} [{over[1]:+.4f}, {over[2]:+.4f}]  "
            f"swaps {swaps:.1f}, read again {again:.0f} per 1,000 tokens"
        )


def main() -> None:
    """Measure all of it."""
    parser = options(__doc__)
    parser.add_argument("--documents", type=int, default=10, help="of each set")
    parser.add_argument("--read", type=int, default=6000, help="tokens of a document")
    parser.add_argument("--tokens", type=int, default=256, help="of a summary")
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--keep-ratio", type=float, default=0.5)
    parser.add_argument("--refresh", type=int, default=64)
    parser.add_argument("--hysteresis", type=float, default=0.0)
    parser.add_argument("--selector", default="apce (embeddings)")
    parser.add_argument("--factor", type=float, default=10.0, help=f"of the stretch ({KIND})")
    args = parser.parse_args()
    records = Records(args.out / "recompute_modes.jsonl", settings_of(args))
    run(args, records)
    summarise(records)


if __name__ == "__main__":
    main()
