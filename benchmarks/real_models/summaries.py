"""Summaries by a real model that reads everything or a part: ROUGE-L against human summaries.

    python -m benchmarks.real_models.summaries MODEL --data DIR --out runs/summaries

The beginning of each report of `eval_gov_report` and of each story of `eval_squality` (its first
question, which asks for the plot), `--input` tokens, with the instruction of the set as a chat
message. The settings take turns, greedily, undrafted, each reading afresh. ROUGE-L is the F1 with
stems against the best human summary; those are summaries of the whole text, for all settings alike.
For comparison: the first `--tokens` tokens of the text itself (`lead`), and how much a summary
repeats itself (the share of its groups of four words that occurred before).

A line for each text is written as it comes; a second run continues the first. Differences are
paired, with bootstrap intervals.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.long_inputs.extracts import rouge_l
from benchmarks.long_inputs.inputs.summaries import read_summaries
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.long_inputs.records import Records
from benchmarks.real_models.readers import DENSE, Readers, cut_to

SETS = ("eval_gov_report", "eval_squality")
CLOCKS = ("ttft", "total", "ttft_cpu", "total_cpu")
_GRAM = 4


def repeated(text: str) -> float:
    """Return the share of the groups of four words that occurred before in the text."""
    words = text.lower().split()
    groups = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(groups)) / len(groups) if groups else 0.0


def run(args: argparse.Namespace, records: Records) -> None:
    """Write all summaries; those that are there are left out."""
    readers = Readers.open(args.model, args.ratios, threads=args.threads, context={})
    items = [i for i in read_summaries(args.data, args.documents, 1) if i.dataset in SETS]
    # In turn, so that a run that is stopped has as many of one set as of the other.
    items.sort(key=lambda item: (int(item.document.rsplit("-", 1)[1]), item.dataset))
    begun = perf_counter()
    for number, item in enumerate(items):
        if item.name in records.keys:
            continue
        text = cut_to(readers.tokenizer, item.text, args.input)
        asked = [{"role": "user", "content": item.asked}]
        settings = list(readers.by)
        found: dict[str, Any] = {}
        for setting in settings if number % 2 == 0 else settings[::-1]:
            own = readers.answer(setting, asked, text, max_new_tokens=args.tokens, fresh=True)
            del own["read"]
            own["rouge_l"] = rouge_l(own["text"], item.references)
            own["repeated"] = repeated(own["text"])
            found[setting] = own
        lead = cut_to(readers.tokenizer, text, args.tokens)
        line = {"dataset": item.dataset, "lead": rouge_l(lead, item.references), "by": found}
        records.add("summary", key=item.name, **line)
        told = {s: round(one["rouge_l"], 3) for s, one in found.items()}
        print(f"{number + 1}/{len(items)}, {perf_counter() - begun:.0f} s, {told}", flush=True)
        if args.seconds and perf_counter() - begun > args.seconds:
            print("the time is over; the same command continues", flush=True)
            break


def summarise(records: Records) -> None:
    """Print and record a table for each set and for both."""
    for dataset in (*SETS, "both"):
        lines = [line for line in records.of("summary") if dataset in (line["dataset"], "both")]
        if lines:
            _table(records, dataset, lines)


def _table(records: Records, dataset: str, lines: Sequence[dict[str, Any]]) -> None:
    lead = bootstrap([line["lead"] for line in lines])
    print(f"\n{dataset}, {len(lines)} texts; lead {_rounded(lead)}")
    for setting in lines[0]["by"]:
        own = [line["by"][setting] for line in lines]
        dense = [line["by"][DENSE] for line in lines]
        pairs = list(zip(own, dense, strict=True))
        row: dict[str, Any] = {
            "rouge_l": bootstrap([one["rouge_l"] for one in own]),
            "over dense": bootstrap([one["rouge_l"] - base["rouge_l"] for one, base in pairs]),
            "repeated": bootstrap([one["repeated"] for one in own]),
            "tokens": median(one["prompt_tokens"] for one in own),
            "kept": median(one["kept_tokens"] for one in own),
            "swaps": sum(one["swaps"] for one in own),
        }
        for figure in (*CLOCKS, "refresh"):
            row[figure] = median(one[figure] for one in own)
        for figure in CLOCKS:
            ratios = sorted(base[figure] / one[figure] for one, base in pairs)
            quarter = len(ratios) // 4
            row[f"{figure} ratio"] = (median(ratios), ratios[quarter], ratios[-1 - quarter])
        loads = sorted(one["load"] for one in own)
        row["load"] = (loads[0], median(loads), loads[-1])
        records.add("table", dataset=dataset, setting=setting, texts=len(lines), **row)
        print(setting, {name: _rounded(value) for name, value in row.items()})


def _rounded(value: Any) -> Any:
    return [round(v, 3) for v in value] if isinstance(value, tuple) else round(value, 3)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--documents", type=int, default=14, help="of each set")
    parser.add_argument("--input", type=int, default=4000, help="tokens of each text")
    parser.add_argument("--tokens", type=int, default=150, help="of a summary")
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.5])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="begin no text after this time")
    args = parser.parse_args()
    left_out = ("out", "data", "seconds", "documents")
    settings = {k: v for k, v in sorted(vars(args).items()) if k not in left_out}
    records = Records(args.out / "summaries.jsonl", settings)
    run(args, records)
    summarise(records)


if __name__ == "__main__":
    main()
