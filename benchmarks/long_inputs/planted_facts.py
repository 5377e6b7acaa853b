"""Planted facts: is what the instruction, or the writing, needs among the chunks that are read?

    python -m benchmarks.long_inputs.planted_facts --data DIR --out runs/planted

No model runs. Over 208 documents of 8k to 29k tokens (the needle, tracking, bAbI and copying tasks
of `eval_longctx_pd`, and novels with invented facts placed anywhere), each selection chooses by the
instruction, then the answer is forced to be written, with a look at the scores every `--refresh`
tokens. A case counts as found when all chunks that hold what it needs are read at the moment that
needs them: lines that the instruction asks for from the beginning to the end of the answer; a
sentence to copy while it is copied; and in the `turn` tasks, where the writing comes to a fact that
the instruction has not named, after the second look. Answers shorter than `--refresh` tokens see no
look, so there a static selection equals a refreshed one by construction.

Writes a line for each case, selection and keep ratio, then the table: share of cases with Wilson's
95 % interval, mean share of the needed chunks, paired differences to `static` and `bm25` with
bootstrap intervals over documents, and swaps per 1,000 forced tokens. Vectors of MiniLM are kept in
`--kept` and found again.
"""

import argparse
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from benchmarks.long_inputs.inputs.documents import check_lengths, known_cases, own_cases
from benchmarks.long_inputs.inputs.needs import Case, judge, length_needed, need_of
from benchmarks.long_inputs.intervals import bootstrap, wilson
from benchmarks.long_inputs.records import Records, options
from benchmarks.long_inputs.selecting import (
    SELECTORS,
    Workshop,
    begun,
    changed,
    settings_of,
    write,
)

from outrider.context.config import ContextConfig
from outrider.core.types import Passage

RATIOS = (0.3, 0.5, 0.7)
GOALS = ("niah_single", "niah_multikey", "copy_paragraph")
TURNS = ("turn_named", "turn_generic", "turn_key")


def token_counter(shop: Workshop, case: Case) -> Callable[[int], int]:
    """Tokens of what is written before a character of it."""
    return lambda at: len(shop.library.passage(case.written[:at]))


def measure(
    shop: Workshop,
    case: Case,
    chunks: tuple[Passage, ...],
    config: ContextConfig,
    seed: int,
    selectors: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """One case, by each selector and keep ratio."""
    tokens_at = token_counter(shop, case)
    ids = shop.library.passage(case.written).token_ids
    ids = ids[: length_needed(case, tokens_at, config.refresh)]
    needs = [need_of(want, chunks, tokens_at, config.refresh) for want in case.wants]
    context = shop.library.context(chunks, case.asked)
    found: dict[str, dict[str, Any]] = {}
    for selector in selectors:
        ranker = shop.ranker(selector, seed)
        for ratio in RATIOS:
            selection = begun(context, ranker, changed(config, keep_ratio=ratio))
            decisions = write(selection, ids)
            all_read, share = judge(needs, [decision.chosen for decision in decisions])
            found[f"{selector} {ratio}"] = {
                "selector": selector,
                "keep_ratio": ratio,
                "found": all_read,
                "share": share,
                "needed": sum(len(need.chunks) for need in needs),
                "chunks": len(chunks),
                "written": len(ids),
                "swaps": sum(len(decision.admitted) for decision in decisions[1:]),
            }
    return found


def run(args: argparse.Namespace, records: Records) -> None:
    """All cases; those that are there already are left out."""
    shop = Workshop.open(args.kept)
    if args.files:
        cases = list(known_cases(args.data, args.per_task, args.files))
        lengths = {case.document: len(shop.library.ids(case.text)) for case in cases}
    else:
        cases = [*known_cases(args.data, args.per_task), *own_cases(args.data, args.per_haystack)]
        lengths = check_lengths(cases, shop.library)
    config = ContextConfig(
        chunk_size=args.chunk_size,
        refresh=args.refresh,
        hysteresis=args.hysteresis,
        max_swaps=args.max_swaps,
    )
    records.add(
        "documents",
        documents=len(lengths),
        shortest=min(lengths.values()),
        longest=max(lengths.values()),
        defaults={k: getattr(config, k) for k in config.__slots__},
    )
    begin = perf_counter()
    for seed, case in enumerate(cases):
        if case.name in records.keys:
            continue
        chunks = shop.library.chunks(case.text, args.chunk_size)
        found = measure(shop, case, chunks, config, seed, args.selectors)
        records.add(
            "case",
            key=case.name,
            task=case.task,
            document=case.document,
            tokens=lengths[case.document],
            found=list(found.values()),
        )
        if seed % 20 == 0:
            print(f"{seed + 1}/{len(cases)} cases, {perf_counter() - begin:.0f} s", flush=True)


def summarise(records: Records) -> None:
    """The table, as lines and on the screen."""
    flat = [
        {"task": line["task"], "document": line["document"], "case": line["key"]} | found
        for line in records.of("case")
        for found in line["found"]
    ]
    groups: dict[str, tuple[str, ...]] = {
        task: (task,) for task in dict.fromkeys(row["task"] for row in flat)
    }
    groups["all turns"] = TURNS
    for ratio in RATIOS:
        for name, members in groups.items():
            own = [r for r in flat if r["task"] in members and r["keep_ratio"] == ratio]
            _summarise_group(records, name, ratio, own)
    selectors = dict.fromkeys(row["selector"] for row in flat)
    swaps = {s: _rate([r for r in flat if r["selector"] == s]) for s in selectors}
    records.add("swaps", per_1000_forced_tokens=swaps)
    print(f"\nswaps per 1,000 forced tokens: {swaps}")


def _summarise_group(
    records: Records, name: str, ratio: float, rows: Sequence[dict[str, Any]]
) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for row in rows:
        runs.setdefault(row["selector"], {})[row["case"]] = row
    cases = len(next(iter(runs.values())))
    print(f"\n{name}, keep ratio {ratio}, {cases} cases (dense reads everything: 1)")
    for selector, own in runs.items():
        if not own:
            continue
        found = sum(r["found"] for r in own.values())
        low, high = wilson(found, len(own))
        line = {
            "task": name,
            "keep_ratio": ratio,
            "selector": selector,
            "cases": len(own),
            "found": found / len(own),
            "interval": [low, high],
            "share": sum(r["share"] for r in own.values()) / len(own),
            "needed": sum(r["needed"] for r in own.values()) / len(own),
        }
        encoder = "embeddings" if "embeddings" in selector else "minilm"
        for base in (f"static ({encoder})", "bm25"):
            if base != selector and base in runs:
                line[f"over {base}"] = _difference(own, runs[base])
        if name in GOALS and selector == "apce (minilm)" and ratio == 0.5:
            line["goal"] = 0.95
        records.add("table", **line)
        told = f"  {selector:20} {line['found']:.3f} [{low:.3f}, {high:.3f}]"
        told += f"  share {line['share']:.3f}"
        over, low, high = line.get(f"over static ({encoder})", (0, 0, 0))
        print(f"{told}  over static {over:+.3f} [{low:+.3f}, {high:+.3f}]")


def _difference(own: dict[str, Any], base: dict[str, Any]) -> tuple[float, float, float]:
    """Mean difference in found cases and its interval, over documents."""
    values = [float(own[case]["found"]) - float(base[case]["found"]) for case in own]
    return bootstrap(values, [own[case]["document"] for case in own])


def _rate(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    out: dict[str, float] = {}
    for ratio in RATIOS:
        own = [r for r in rows if r["keep_ratio"] == ratio]
        written = sum(r["written"] for r in own)
        out[str(ratio)] = 1000 * sum(r["swaps"] for r in own) / written if written else 0.0
    return out


def main() -> None:
    """Measure all of it."""
    parser = options(__doc__)
    parser.add_argument("--chunk-size", type=int, default=ContextConfig().chunk_size)
    parser.add_argument("--refresh", type=int, default=ContextConfig().refresh)
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS))
    parser.add_argument("--hysteresis", type=float, default=ContextConfig().hysteresis)
    parser.add_argument("--max-swaps", type=int, default=ContextConfig().max_swaps)
    parser.add_argument("--per-task", type=int, help="cases of each task and length; default: all")
    parser.add_argument(
        "--files",
        nargs="+",
        help="only these of the set (w04000), of whatever length, none of ours",
    )
    parser.add_argument("--per-haystack", type=int, help="own documents of each haystack")
    args = parser.parse_args()
    records = Records(args.out / "planted_facts.jsonl", settings_of(args))
    run(args, records)
    summarise(records)


if __name__ == "__main__":
    main()
