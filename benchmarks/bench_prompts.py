"""Write the prompts of `outrider bench`: 32 a workload, from held-out texts under open licences.

    python benchmarks/bench_prompts.py --data DIR

First those that ship with the tiny family, then more from the same held-out files, so that no
workload rests on a handful. `DIR` holds the data sets that the family's card names. Deterministic.
"""

import argparse
import json
import random
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from outrider.models.sources.families import families_folder
from outrider.training.core.copy_tasks import copy_task
from outrider.training.core.corpus import read_records
from outrider.training.core.prompts import messages

COUNT = 32
MOST_CHARACTERS = 1200
WORKLOADS = {
    "stories": (("pd_books", "story"), ("fairytaleqa", "story")),
    "dialogue": (("synthetic_persona_chat", "chat"),),
    "qa": (("fairytaleqa", "chat"), ("gsm8k", "chat"), ("math_synth", "chat")),
    "copy": (("pd_books", "chat"),),
}
LICENCES = {
    "synthetic_persona_chat": "CC BY 4.0",
    "fairytaleqa": "Apache-2.0, tales in the public domain",
    "pd_books": "public domain (US)",
}
Line = dict[str, Any]


def talks(data: Path, rng: random.Random) -> Iterator[Line]:
    """Conversations cut after the user's second or third turn."""
    for record in shuffled(data / "synthetic_persona_chat/test.jsonl.zst", rng):
        turns = [{"role": t["role"], "content": t["text"]} for t in record["turns"]]
        length = rng.choice((3, 5))
        if len(turns) > length and turns[length - 1]["role"] == "user":
            yield line("dialogue", "synthetic_persona_chat", turns[:length])


def questions(data: Path, rng: random.Random) -> Iterator[Line]:
    """A passage of a tale with a question about it; one a tale at a time."""
    for record in shuffled(data / "fairytaleqa/val.jsonl.zst", rng):
        pair = rng.choice(record["qa"])
        number = str(pair.get("section", "1")).split(",")[0].strip()
        passage = record["sections"][min(int(number), len(record["sections"])) - 1]
        lead = f"Read this passage and answer the question.\n\n{passage}\n\n{pair['q']}"
        yield line("qa", "fairytaleqa", [{"role": "user", "content": lead}])


def copies(data: Path, rng: random.Random) -> Iterator[Line]:
    """Texts to be given back, whole or with one word replaced."""
    for record in shuffled(data / "pd_books/val.jsonl.zst", rng):
        for document in copy_task(record, rng):
            prompt = messages(document)
            if "sentence" not in prompt[0]["content"].partition("\n")[0]:
                yield line("copy", "pd_books", prompt)


def line(workload: str, source: str, prompt: Any) -> Line:
    """One prompt as it is written down."""
    return {
        "workload": workload,
        "prompt": prompt,
        "source": source,
        "licence": LICENCES[source],
    }


def shuffled(file: Path, rng: random.Random) -> list[Line]:
    """The records of a file, in an order of our own."""
    records = list(read_records(file))
    rng.shuffle(records)
    return records


def shipped(workload: str) -> list[Line]:
    """The family's own prompts of one workload, its sources by turns."""
    text = (families_folder() / "tiny" / "prompts.jsonl").read_text(encoding="utf-8")
    records = [json.loads(row) for row in text.splitlines()]
    groups = [
        [
            {"workload": workload} | {k: r[k] for k in ("prompt", "source", "licence")}
            for r in records
            if (r["source"], r["kind"]) == wanted
        ]
        for wanted in WORKLOADS[workload]
    ]
    return [r for r in chain.from_iterable(zip_longest(*groups)) if r is not None]


def main() -> None:
    """Collect, cut to `COUNT`, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("src/outrider/bench/prompts.jsonl"))
    options = parser.parse_args()
    more = {"dialogue": talks, "qa": questions, "copy": copies}
    lines: list[str] = []
    for workload in WORKLOADS:
        found = shipped(workload)
        rng = random.Random(f"bench/{workload}")
        for extra in more[workload](options.data, rng) if workload in more else ():
            known = any(extra["prompt"] == r["prompt"] for r in found)
            if not known and len(json.dumps(extra["prompt"])) <= MOST_CHARACTERS:
                found.append(extra)
        lines += [json.dumps(r, ensure_ascii=False) for r in found[:COUNT]]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} prompts in {options.out}")


if __name__ == "__main__":
    main()
