"""Drafted against undrafted text on a real model: every free drafter on 60 Spec-Bench prompts.

    python -m benchmarks.real_models.exactness MODEL --prompts question.jsonl.zst

Ten prompts from each of the six official categories. The settings (weights, cache, sampling,
threads, batch) are assigned by a pairwise covering design, in which every pair of values of two
settings occurs; each setting has five prompts. The reference of all of them is undrafted, one
prompt at a time, on one thread, so that batches and threads are compared as well. Results are
written as they come; a second run continues the first.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

from benchmarks.real_models.prompts import CHAT, OFFICIAL

from outrider import Generator, load
from outrider.drafters.method import DrafterMethod
from outrider.strategy.catalogue import drafter_records
from outrider.training.core.corpus import read_records

_OF_EACH = 10
_CHARACTERS = 2000
_A_SETTING = 5

AXES: dict[str, tuple[Any, ...]] = {
    "dtype": ("stored", "int8", "bfloat16", "int8-channels"),
    "cache_dtype": ("int8", "float32", "bfloat16"),
    "temperature": (0.0, 0.8),
    "threads": (1, 2),
    "batch": (1, 8),
}

Setting = dict[str, Any]


def covering(axes: dict[str, tuple[Any, ...]]) -> list[Setting]:
    """Return few settings in which each pair of values of two axes occurs, greedily."""
    names = list(axes)
    everything = list(product(*axes.values()))
    missing = {pair for case in everything for pair in _pairs(case)}
    found: list[tuple[Any, ...]] = []
    while missing:
        best = max(everything, key=lambda case: len(missing & set(_pairs(case))))
        missing -= set(_pairs(best))
        found.append(best)
    return [dict(zip(names, case, strict=True)) for case in found]


def _pairs(case: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    return combinations(enumerate(case), 2)


def prompts(path: Path) -> list[str]:
    """Return ten first turns of each category, in turn."""
    kinds: dict[str, list[str]] = {name: [] for name in (*OFFICIAL, CHAT)}
    for record in read_records(path):
        kind = record["category"] if record["category"] in OFFICIAL else CHAT
        if len(kinds[kind]) < _OF_EACH:
            kinds[kind].append(record["turns"][0][:_CHARACTERS])
    return [text for row in zip(*kinds.values(), strict=True) for text in row]


class Run:
    """One run: loads each generator once, and writes a line for each comparison."""

    def __init__(self, model: str, out: Path, tokens: int) -> None:
        self.model, self.out, self.tokens = model, out, tokens
        self.done = _read(out)

    def compare(self, setting: Setting, texts: Sequence[str], names: Sequence[str]) -> None:
        """Compare all drafters under one setting."""
        label = json.dumps(setting)
        left = [name for name in names if (name, label) not in self.done]
        if not left:
            return
        chats = [[{"role": "user", "content": text}] for text in texts]
        options = {"max_new_tokens": self.tokens, "temperature": setting["temperature"], "seed": 7}
        weights = {"dtype": setting["dtype"], "cache_dtype": setting["cache_dtype"]}
        plain = load(self.model, mode="none", threads=1, **weights)
        wanted = [plain.generate(chat, **options).token_ids for chat in chats]
        for name in left:
            begin = time.perf_counter()
            drafted = load(self.model, drafter=name, threads=setting["threads"], **weights)
            found = self._texts(drafted, chats, setting["batch"], options)
            line: dict[str, Any] = {
                "drafter": name,
                "setting": setting,
                "texts": len(chats),
                "tokens": sum(map(len, wanted)),
                "different": [
                    i
                    for i, pair in enumerate(zip(wanted, found, strict=True))
                    if pair[0] != pair[1]
                ],
                "accepted": self.accepted,
                "seconds": time.perf_counter() - begin,
                "load": os.getloadavg()[0],
            }
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name}, {label}: {len(line['different'])} of {len(chats)} differ", flush=True)

    def _texts(
        self, generator: Generator, chats: Sequence[Any], batch: int, options: dict[str, Any]
    ) -> list[tuple[int, ...]]:
        """Return the ids of each answer; batches are filled up with the same prompts."""
        if batch == 1:
            results = [generator.generate(chat, **options) for chat in chats]
        else:
            filled = [chats[i % len(chats)] for i in range(batch)]
            results = generator.generate(filled, **options)
        self.accepted = sum(r.speculation.target.accepted for r in results[: len(chats)])
        return [result.token_ids for result in results[: len(chats)]]


def _read(path: Path) -> set[tuple[str, str]]:
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["drafter"], json.dumps(line["setting"])) for line in lines}


def free(found: DrafterMethod) -> bool:
    """Whether a drafter needs nothing but the target."""
    if any(option.required for option in found.options.values()):
        return False
    return not found.models and not found.inner and not found.needs_store


def report(path: Path) -> None:
    """Print a line for each drafter."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for name in dict.fromkeys(line["drafter"] for line in lines):
        own = [line for line in lines if line["drafter"] == name]
        texts, tokens = (sum(line[key] for line in own) for key in ("texts", "tokens"))
        different = sum(len(line["different"]) for line in own)
        accepted = sum(line["accepted"] for line in own)
        print(f"{name}: {different} of {texts} texts differ; {accepted} of {tokens} tokens drafted")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/exactness.jsonl"))
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--drafters", nargs="+")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    names = given.drafters or [found.name for found in drafter_records() if free(found)]
    settings, texts = covering(AXES), prompts(given.prompts)
    run = Run(given.model, given.out, given.max_new_tokens)
    print(f"{len(settings)} settings, {len(texts)} prompts, {len(names)} drafters: {names}")
    for i, setting in enumerate(settings):
        part = [texts[(i * _A_SETTING + k) % len(texts)] for k in range(_A_SETTING)]
        run.compare(setting, part, names)
    report(given.out)


if __name__ == "__main__":
    main()
