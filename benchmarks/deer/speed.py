"""Blocks of a masked draft model beside chains of the same model, heads, and undrafted decoding.

    python -m benchmarks.deer.speed tiny configs/deer/tiny.toml --data DIR --out rows.jsonl \
        deer4=RUN/tiny-deer:deer:4 chain4=RUN/tiny-deer:model:4 clover4=HEAD:clover:4

A system is a name, the folder of its draft model, its drafter, and the fixed length of its drafts;
`tiny` as a folder is the draft model of the family. All answer each prompt in turn, in another
order each time; half of the prompts are those that follow the recorded ones of the training, half
ship with the family. `--cost-scale 30M` deepens the target without a change of its outputs.

Ratios are those of seconds a token over undrafted decoding, by the clock and of the processor;
tokens a round are totals over totals. Intervals draw prompts (2,000 resamples of pairs).
"""

import argparse
import json
import os
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider import Generator, load
from outrider.bench.scaling.scale import cost_scale
from outrider.models.sources.families import families_folder
from outrider.training.core.config import read_table
from outrider.training.core.pairs import folder_of
from outrider.training.deer.config import DeerRecipe
from outrider.training.heads.prompts import training_prompts

FIRST, RESAMPLES, UNDRAFTED = 9000, 2000, "undrafted"
Row = dict[str, Any]
Numbers = NDArray[np.float64]


def opened(target: str, system: str, threads: int) -> tuple[str, Generator]:
    """Return the name and the generator of a system."""
    name, _, rest = system.partition("=")
    options: dict[str, Any] = {"qualifier": "none"} if target == "tiny" else {}
    if not rest:
        return name, load(target, drafter="none", draft="none", threads=threads, **options)
    draft, drafter, length = rest.rsplit(":", 2)
    folder = folder_of(draft, "draft") if draft.startswith("tiny") else Path(draft)
    made = load(
        target,
        draft=folder,
        drafter=drafter,
        num_speculative_tokens=int(length),
        threads=threads,
        guard="off",
        **options,
    )
    return name, made


def prompts_of(recipe: DeerRecipe, data: Path, count: int) -> list[tuple[str, Any]]:
    """Return new prompts of both kinds."""
    every = training_prompts(recipe.prompts, data, recipe.answers.seed)
    new = [("new", one.messages) for one in islice(every, FIRST, FIRST + count - count // 2)]
    lines = (families_folder() / "tiny" / "prompts.jsonl").read_text("utf-8").splitlines()
    shipped = [json.loads(line) for line in lines[:: max(1, len(lines) // (count // 2))]]
    return new + [(one["kind"], one["prompt"]) for one in shipped[: count // 2]]


def measured(generator: Generator, prompt: Any, temperature: float, tokens: int) -> Row:
    """Answer a prompt."""
    begun, spent = time.perf_counter(), time.process_time()
    result = generator.generate(prompt, temperature=temperature, seed=1, max_new_tokens=tokens)
    target = result.speculation.target
    return {
        "ids": list(result.token_ids),
        "wall": time.perf_counter() - begun,
        "cpu": time.process_time() - spent,
        "rounds": target.rounds,
        "accepted_at": list(target.accepted_at),
        "drafted": target.drafted,
    }


def runs_of(rows: list[Row]) -> Counter[int]:
    """Return how many rounds kept each number of drafted tokens."""
    reached: Counter[int] = Counter()
    for row in rows:
        reached.update({i + 1: n for i, n in enumerate(row["accepted_at"])})
        reached[0] += row["rounds"]
    return Counter({i: reached[i] - reached[i + 1] for i in sorted(reached)})


def interval(top: Numbers, bottom: Numbers, draws: NDArray[np.int64]) -> str:
    """Return the ratio of two sums, and its interval."""
    found = top[draws].sum(1) / bottom[draws].sum(1)
    low, high = np.quantile(found, (0.025, 0.975))
    return f"{top.sum() / bottom.sum():.3f} [{low:.3f}, {high:.3f}]"


def table(found: dict[str, list[Row]]) -> str:
    """Return the table of all systems."""
    plain = found[UNDRAFTED]
    draws = np.random.default_rng(0).integers(0, len(plain), (RESAMPLES, len(plain)))
    lines = [
        "| | tokens a round | longest run | runs of 0, 1, 2, ... | kept | speed by the clock | "
        "speed by the processor | equal texts |",
        "|---|---|--:|---|--:|---|---|--:|",
    ]
    for name, rows in found.items():
        tokens = np.array([len(row["ids"]) for row in rows], dtype=np.float64)
        rounds = np.array([row["rounds"] for row in rows], dtype=np.float64)
        runs, total = runs_of(rows), rounds.sum()
        shares = " ".join(f"{runs[i] / total:.1%}" for i in sorted(runs) if runs[i])
        drafted = sum(row["drafted"] for row in rows)
        kept = sum(sum(row["accepted_at"]) for row in rows)
        ratios = [
            interval(
                np.array([row[clock] for row in plain]),
                np.array([row[clock] for row in rows]),
                draws,
            )
            for clock in ("wall", "cpu")
        ]
        equal = sum(a["ids"] == b["ids"] for a, b in zip(rows, plain, strict=True))
        longest = max((i for i in runs if runs[i]), default=0)
        share = f"{kept / drafted:.1%}" if drafted else ""
        lines.append(
            f"| {name} | {interval(tokens, rounds, draws)} | {longest} | {shares} | {share} | "
            f"{ratios[0]} | {ratios[1]} | {equal} of {len(rows)} |"
        )
    return "\n".join(lines)


def pairs(found: dict[str, list[Row]], asked: list[str]) -> list[str]:
    """Return differences in tokens a round between two systems."""
    lines: list[str] = []
    for pair in asked:
        names = pair.split(",")
        tokens, rounds = (
            np.array([[f(row) for row in found[name]] for name in names], dtype=np.float64)
            for f in (lambda row: len(row["ids"]), lambda row: row["rounds"])
        )
        count = tokens.shape[1]
        draws = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
        rates = tokens[:, draws].sum(2) / rounds[:, draws].sum(2)
        whole = tokens.sum(1) / rounds.sum(1)
        low, high = np.quantile(rates[0] - rates[1], (0.025, 0.975))
        lines.append(
            f"{names[0]} - {names[1]}: {whole[0] - whole[1]:+.3f} [{low:+.3f}, {high:+.3f}]"
        )
    return lines


def main() -> None:
    """Answer all prompts, write a row for each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("config", type=Path, help="the file that the draft model was trained with")
    parser.add_argument("systems", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", nargs="*", default=[], help="such as deer8,chain8")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--cost-scale", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=500.0)
    given = parser.parse_args()
    begun, target = time.monotonic(), given.target
    if given.cost_scale:
        scaled = given.out.parent / f"target-{given.cost_scale}"
        target = str(cost_scale(folder_of(target, "target"), given.cost_scale, scaled))
    made = dict(opened(target, system, given.threads) for system in [UNDRAFTED, *given.systems])
    names = list(made)
    found: dict[str, list[Row]] = {name: [] for name in names}
    every = prompts_of(read_table(given.config, DeerRecipe), given.data, given.count)
    order = np.random.default_rng(0).permutation(len(every)).tolist()
    for name in names:  # caches, kernels and the first touch of weights
        measured(made[name], every[0][1], 0.0, 8)
    for number, place in enumerate(order):
        if time.monotonic() - begun > given.seconds:
            break
        kind, prompt = every[place]
        first = number % len(names)
        with given.out.open("a") as file:
            for name in names[first:] + names[:first]:
                row = measured(made[name], prompt, given.temperature, given.tokens)
                found[name].append(row)
                line = {"system": name, "kind": kind, "prompt": place} | row
                file.write(json.dumps(line) + "\n")
    print(table(found))
    print(*pairs(found, given.pairs), sep="\n")
    print(f"{len(found[UNDRAFTED])} prompts; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
