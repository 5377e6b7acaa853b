"""Texts of a masked denoiser under each commit rule: rounds, forwards, time, perplexity, schemas.

    python -m benchmarks.diffusion.samplers --stories FILE --out runs/samplers.jsonl

Every item is written under each rule in turn, on the same model. `stories`: "Continue the story:"
with the first pages of one; the text is scored by an autoregressive judge (nats a token, end token
included) behind the same prompt. `json`: an object with the fields that the prompt tells; it is
checked with its schema and with the values, and written once freely and once under the grammar.
Each text is one line in `--out`; a run that was stopped goes on where it stopped. Time is that of
the processor.
"""

import argparse
import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from time import perf_counter, process_time
from typing import Any

import jsonschema_rs
import torch
from benchmarks.long_inputs.intervals import bootstrap, wilson

import outrider
from outrider.bench.statistics import Ratio
from outrider.core.types import Prompt, as_ids
from outrider.diffusion.parallel.item import TEST, draw
from outrider.diffusion.parallel.objects import FIELDS, OBJECT_TASKS, object_schema
from outrider.engine.generator import Generator
from outrider.inputs.lines import open_text
from outrider.models.loading import load_model
from outrider.models.sources.families import family
from outrider.protocols import LanguageModel, Segment

BASE = "low-confidence"
METHODS = (
    BASE,
    "low-confidence(steps=16)",
    "threshold",
    "threshold(threshold=0.7)",
    "factor",
    "confident",
    "learned",
    "explore",
    "explore(branches=0)",
    "threshold(cache=prefix)",
    "threshold(cache=dual)",
    "threshold(cache=delayed,refresh=4)",
    "threshold(cache=prompt)",
    "threshold(early_stop=true)",
)
_NAMED = {field.name: field for field in FIELDS}


def stories(path: Path, count: int) -> Iterator[str]:
    """Yield a prompt for each of the first stories: the text of its first pages."""
    with open_text(path) as lines:
        for line in itertools.islice(lines, count):
            pages = json.loads(line)["pages"]
            yield f"Continue the story: {' '.join(pages)[:300].rpartition('.')[0]}."


def schema_of(prompt: str) -> dict[str, Any]:
    """Return the schema of an item of the task `json`."""
    asked = prompt.partition(". ")[0]
    return object_schema(tuple(_NAMED[name] for name in re.findall(r'"(\w+)":', asked)))


def nats(judge: LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Return the mean loss of the answer's tokens behind the prompt."""
    [cache] = judge.start([Prompt(token_ids=tuple(prompt))])
    rows = as_ids(range(-1, len(answer) - 1))
    [found] = judge.forward([Segment(cache, as_ids(answer[:-1]))], [rows])
    logs = torch.log_softmax(found.logits.double(), -1)
    return float(-logs[torch.arange(len(answer)), torch.as_tensor(list(answer))].mean())


def distinct(ids: Sequence[int]) -> float:
    """Return the share of pairs of neighbours that occur once only."""
    pairs = list(itertools.pairwise(ids))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def write(generator: Generator, prompt: str, **options: Any) -> dict[str, Any]:
    """Write one text; return its figures."""
    wall, begun = perf_counter(), process_time()
    result = generator.generate([{"role": "user", "content": prompt}], seed=1, **options)
    counters = result.speculation.target
    return {
        "processor": process_time() - begun,
        "wall": perf_counter() - wall,
        "text": result.text,
        "ids": list(result.token_ids),
        "finish": result.finish_reason,
        "rounds": counters.rounds,
        "forwards": counters.forwards,
        "rows": counters.denoised_rows,
    }


def run(args: argparse.Namespace) -> None:
    """Write what `--out` does not hold yet."""
    torch.set_num_threads(1)
    models = {name: outrider.load(args.target, threads=1, denoising=name) for name in args.methods}
    judge = load_model(family("tiny")["target"], dtype="float32", threads=1)
    codec = models[BASE].tokenizer
    assert codec is not None
    known = {(r["task"], r["item"], r["method"]) for r in records(args.out)}
    begun, rng = perf_counter(), random.Random(5)
    objects = [draw(OBJECT_TASKS[0], rng, TEST) for _ in range(args.items)]
    told = list(stories(args.stories, args.items)) if args.stories else []
    with args.out.open("a") as file:
        for number in range(args.items):
            for name, generator in models.items():
                rows: list[dict[str, Any]] = []
                if number < len(told) and ("stories", number, name) not in known:
                    row = write(generator, told[number], max_new_tokens=args.tokens)
                    message = [{"role": "user", "content": told[number]}]
                    row["nats"] = nats(judge, generator.prompt(message).token_ids, row["ids"])
                    row["distinct"] = distinct(row["ids"])
                    rows.append({"task": "stories", **row})
                if ("json", number, name) not in known:
                    item = objects[number]
                    schema = schema_of(item.prompt)
                    for task, how in (("json", {}), ("json, grammar", {"json_schema": schema})):
                        row = write(generator, item.prompt, max_new_tokens=64, **how)
                        row |= {
                            "valid": valid(row["text"], schema),
                            "right": item.score(row["text"]),
                        }
                        rows.append({"task": task, **row})
                for row in rows:
                    file.write(json.dumps({"item": number, "method": name, **row}) + "\n")
                file.flush()
            if perf_counter() - begun > args.seconds:
                print(f"stopped by --seconds after {number + 1} items")
                return


def valid(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether a text is JSON that follows the schema."""
    try:
        return jsonschema_rs.is_valid(dict(schema), json.loads(text))
    except ValueError:
        return False


def records(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run."""
    return [json.loads(line) for line in path.open()] if path.exists() else []


def report(rows: list[dict[str, Any]]) -> None:
    """Print one table for each task."""
    base = {(r["task"], r["item"]): r for r in rows if r["method"] == BASE}
    for task in ("stories", "json", "json, grammar"):
        print(f"\n**{task}**\n")
        for method in dict.fromkeys(r["method"] for r in rows):
            own = [r for r in rows if (r["task"], r["method"]) == (task, method)]
            own = [r for r in own if (task, r["item"]) in base]
            if not own:
                continue
            pairs = [(base[task, r["item"]], r) for r in own]
            speed = Ratio.of([b["processor"] / r["processor"] for b, r in pairs])
            cells = [
                method,
                f"{mean(len(r['ids']) for r in own):.1f}",
                f"{mean(r['rounds'] for r in own):.1f}",
                f"{mean(r['forwards'] for r in own):.1f}",
                f"{mean(r['rows'] for r in own):.0f}",
                f"{1000 * mean(r['processor'] for r in own):.0f} ms",
                (speed and f"{speed.mean:.2f}x [{speed.low:.2f}, {speed.high:.2f}]") or "",
            ]
            if task == "stories":
                middle, low, high = bootstrap([r["nats"] - b["nats"] for b, r in pairs])
                cells.append(f"{mean(r['nats'] for r in own):.2f}")
                cells.append(f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]")
                cells.append(f"{mean(r['distinct'] for r in own):.2f}")
            else:
                done = [r for r in own if r["finish"] == "stop"]
                for name, among in (("valid", own), ("right", own)):
                    count = sum(bool(r[name]) for r in among)
                    low, high = wilson(count, len(among))
                    cells.append(f"{count} of {len(among)} [{low:.2f}, {high:.2f}]")
                cells.append(f"{sum(bool(r['valid']) for r in done)} of {len(done)}")
            print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Write the texts, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="tiny-diffusion")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--stories", type=Path, help="stories, as lines with a field `pages`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--report", action="store_true", help="print the tables only")
    args = parser.parse_args()
    if not args.report:
        run(args)
    report(records(args.out))


if __name__ == "__main__":
    main()
