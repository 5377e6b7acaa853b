"""Human summaries of long documents: how likely they are, and how near to extracts.

    python -m benchmarks.long_inputs.reference_summaries --data DIR --out runs/summaries

SQuALITY, QMSum and GovReport (test parts). For each selection at the same budget of prompt tokens:

- Likelihood: nats per token of the first `--tokens` tokens of the human summary under the tiny
  target, which reads the chat prompt with the chosen chunks, positions compact. The summary is
  committed `--refresh` tokens at a time, so that APCE selects again as it would while writing. The
  target's window is 2048 tokens: the whole document (dense) cannot be read at all; `nothing` is
  the instruction alone.
- Extracts: the best sentences of the document by each selection, within as many tokens as the first
  human summary has (`extracts.py` says how), against all human summaries: ROUGE-L (best reference)
  and a likeness of sentences by MiniLM, which favours selections by MiniLM.

Intervals are 95 %, by bootstrap over documents; differences are paired.
"""

import argparse
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from benchmarks.long_inputs.extracts import extract, likeness, rouge_l, sentences
from benchmarks.long_inputs.inputs.summaries import DATASETS, Summary, read_summaries
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.long_inputs.likelihood import log_likelihoods
from benchmarks.long_inputs.records import Records, options
from benchmarks.long_inputs.selecting import SELECTORS, Workshop, changed, settings_of

from outrider.context.config import ContextConfig
from outrider.context.selector import Selected
from outrider.models.loading import load_model
from outrider.models.sources.families import family
from outrider.protocols import LanguageModel

NOTHING = "nothing"
BASES = ("random", "static (minilm)", "static (embeddings)")


def likelihood(
    shop: Workshop,
    model: LanguageModel,
    item: Summary,
    config: ContextConfig,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Mean nats per token, by selector."""
    ids = shop.library.passage(item.references[0]).token_ids[: args.tokens]
    bare = shop.library.bare(item.asked)
    nats, _ = log_likelihoods(model, bare, ids, config.refresh)
    found: dict[str, Any] = {NOTHING: {"nats": -sum(nats) / len(ids)}}
    prompt = shop.library.prompt(item.text, item.asked, config.chunk_size)
    for selector in args.selectors:
        selected = Selected(model, shop.ranker(selector, _seed(item)), config)
        nats, cache = log_likelihoods(selected, prompt, ids, config.refresh)
        reading = cache.reading.to_dict()
        found[selector] = {
            "nats": -sum(nats) / len(ids),
            "swaps": reading["swaps"],
            "held": cache.reading.held_tokens,
            "recomputed": reading["recomputed_tokens"],
        }
    return {"tokens": len(ids), "prompt": len(prompt), "by": found}


def extracts(
    shop: Workshop, item: Summary, config: ContextConfig, selectors: Sequence[str]
) -> dict[str, Any]:
    """ROUGE-L and likeness of extracts, by selector."""
    room = len(shop.library.passage(item.references[0]))
    own = tuple(shop.library.passage(s) for s in sentences(item.text))
    context = shop.library.context(own, item.asked)
    minilm = shop.encoders["minilm"]
    theirs = [sentences(reference) for reference in item.references]
    found: dict[str, Any] = {}
    for selector in selectors:
        index = shop.ranker(selector, _seed(item)).index(context)
        taken = extract(
            context,
            index,
            room,
            every=config.refresh,
            mix=config.query_mix,
            window=config.query_window,
        )
        chosen = [own[i].text for i in taken]
        near = max((likeness(minilm, chosen, their) for their in theirs), key=lambda n: n.f1)
        found[selector] = {
            "rouge_l": rouge_l("\n".join(chosen), item.references),
            "precision": near.precision,
            "recall": near.recall,
            "likeness": near.f1,
            "sentences": len(taken),
        }
    return {"room": room, "sentences": len(own), "by": found}


def _seed(item: Summary) -> int:
    """Of the random selection: another one for each summary."""
    return sum(item.name.encode())


def run(args: argparse.Namespace, records: Records) -> None:
    """All summaries; those that are there already are left out."""
    shop = Workshop.open(args.kept)
    model = load_model(family("tiny")["target"], dtype=args.dtype, threads=1)
    config = changed(
        ContextConfig(),
        keep_ratio=1.0,
        budget=args.budget,
        positions="compact",
        chunk_size=args.chunk_size,
        refresh=args.refresh,
    )
    records.add("target", window=model.info.context_length, fingerprint=model.info.fingerprint)
    items = list(read_summaries(args.data, args.documents, args.questions))
    begin = perf_counter()
    for number, item in enumerate(items):
        about = {"dataset": item.dataset, "document": item.document}
        if args.likelihood and f"likelihood {item.name}" not in records.keys:
            found = likelihood(shop, model, item, config, args)
            records.add("likelihood", key=f"likelihood {item.name}", **about, **found)
        if args.extracts and f"extract {item.name}" not in records.keys:
            found = extracts(shop, item, config, args.selectors)
            records.add("extract", key=f"extract {item.name}", **about, **found)
        if number % 5 == 0:
            print(f"{number + 1}/{len(items)}, {perf_counter() - begin:.0f} s", flush=True)


def summarise(records: Records) -> None:
    """Means and paired differences, for each set and over all of them."""
    for kind, figure in (("likelihood", "nats"), ("extract", "rouge_l"), ("extract", "likeness")):
        lines = records.of(kind)
        for dataset in (*DATASETS, "all"):
            own = [line for line in lines if dataset in (line["dataset"], "all")]
            if own:
                _table(records, kind, figure, dataset, own)


def _table(
    records: Records, kind: str, figure: str, dataset: str, lines: Sequence[dict[str, Any]]
) -> None:
    documents = [line["document"] for line in lines]
    print(f"\n{figure}, {dataset}: {len(lines)} summaries of {len(set(documents))} documents")
    for selector in lines[0]["by"]:
        values = [line["by"][selector][figure] for line in lines]
        mean, low, high = bootstrap(values, documents)
        row: dict[str, Any] = {"mean": mean, "interval": [low, high]}
        for base in (*BASES, "bm25"):
            if base == selector or base not in lines[0]["by"]:
                continue
            others = [line["by"][base][figure] for line in lines]
            gains = [a - b for a, b in zip(values, others, strict=True)]
            row[f"over {base}"] = bootstrap(gains, documents)
        about = {"figure": figure, "dataset": dataset, "summaries": len(lines)}
        records.add("table", of=kind, selector=selector, **about, **row)
        encoder = "embeddings" if "embeddings" in selector else "minilm"
        over = [row.get(f"over {base}", (0, 0, 0)) for base in ("random", f"static ({encoder})")]
        told = "".join(f"  {d:+.4f} [{a:+.4f}, {b:+.4f}]" for d, a, b in over)
        print(f"  {selector:20} {mean:.4f} [{low:.4f}, {high:.4f}]  over random, static:{told}")


def main() -> None:
    """Measure all of it."""
    parser = options(__doc__)
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS))
    parser.add_argument("--documents", type=int, default=20, help="of each set")
    parser.add_argument("--questions", type=int, default=2, help="about each document")
    parser.add_argument("--tokens", type=int, default=256, help="of a summary")
    parser.add_argument("--budget", type=int, default=1400, help="prompt tokens")
    parser.add_argument("--chunk-size", type=int, default=128)
    parser.add_argument("--refresh", type=int, default=ContextConfig().refresh)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--likelihood", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--extracts", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    records = Records(args.out / "reference_summaries.jsonl", settings_of(args))
    run(args, records)
    summarise(records)


if __name__ == "__main__":
    main()
