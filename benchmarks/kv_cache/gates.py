"""Held-out answers with some KV heads reduced to sinks and recent tokens, by trained gates.

    python -m benchmarks.kv_cache.gates --target smollm2 --tasks codes --facts 6 \
        --gates runs/smollm2-gates/smollm2-rlkv.safetensors \
                runs/smollm2-gates/smollm2-duo.safetensors --rows rows.jsonl

Held-out problems are of the same tasks as in training, with other names; those that the model
solves with full attention are kept. At each sparsity, the same number of heads reads sinks and
recent tokens only, in the prompt and in the answer: those with the lowest gates of RLKV, of
DuoAttention, or of three random draws. `all local` reduces every head. Each line of the rows is one
problem under one choice of heads; a run that is started again continues.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from benchmarks.long_inputs.intervals import bootstrap

from outrider.models.caches.eviction.heads.gates import Gates
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.llama.decoder import Decoder
from outrider.training.core.pairs import folder_of
from outrider.training.gates.gated import Gated
from outrider.training.gates.problems import Problem, draw_problem, of_equal_length, stacked
from outrider.training.gates.train import solved_names

SEEDS = (0, 1, 2)
_BATCH = 16

Row = dict[str, object]
Choice = tuple[str, float, np.ndarray]
"""A method, the share of reduced heads, and which heads stay full."""


def main() -> None:
    """Measure all choices of heads, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--gates", nargs="+", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--facts", type=int, required=True)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--attempts", type=int, default=1024)
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.25, 0.5, 0.75])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=540)
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    source = folder_of(given.target, "target")
    trained = [Gates.load(file) for file in given.gates]
    sinks, recent = trained[0].sinks, trained[0].recent
    model = Gated(Decoder.load(source), sinks, recent)
    for gates in trained:
        gates.check(model.target.info.fingerprint, *model.shape)
    problems = _held_out(given, model, Tokenizer.load(source))
    length = np.mean([len(one.ids) for one in problems])
    print(f"{len(problems)} problems of {length:.0f} tokens on average; {sinks} + {recent} kept")
    rows = _read(given.rows)
    with given.rows.open("a", encoding="utf-8") as file:
        for method, sparsity, full in _choices(trained, model.shape, given.sparsities):
            if any(row["method"] == method and row["sparsity"] == sparsity for row in rows):
                continue
            if time.monotonic() - begun > given.seconds:
                print("stopped by --seconds: start again to continue")
                break
            values = torch.from_numpy(full.astype(np.float32))
            for number, (right, chance) in enumerate(_answers(model, values, problems)):
                row: Row = {
                    "method": method,
                    "sparsity": sparsity,
                    "problem": number,
                    "right": right,
                    "chance": round(chance, 6),
                }
                rows.append(row)
                file.write(json.dumps(row) + "\n")
            file.flush()
    _print(rows, {gates.method for gates in trained}, given.sparsities)
    print(f"load average {os.getloadavg()}")


def _held_out(given: argparse.Namespace, model: Gated, tokenizer: Tokenizer) -> list[Problem]:
    """Return held-out problems that the model solves; their names are kept beside the rows."""
    kept, names, tried = given.rows.with_suffix(".names.json"), list[str](), 0
    if kept.is_file():
        names = json.loads(kept.read_text())
    else:
        while len(names) < given.problems and tried < given.attempts:
            drawn = [f"held out/{tried + i}" for i in range(given.problems)]
            names += solved_names(drawn, given.tasks, given.facts, model, tokenizer)
            tried += len(drawn)
        print(f"{len(names)} of {tried} held-out problems are solved with full attention")
        names = names[: given.problems]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(names))
    return [draw_problem(given.tasks, given.facts, tokenizer, name) for name in names]


def _read(file: Path) -> list[Row]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _choices(
    trained: Sequence[Gates], shape: tuple[int, int], sparsities: Sequence[float]
) -> Iterator[Choice]:
    yield "full", 0.0, np.ones(shape)
    yield "all local", 1.0, np.zeros(shape)
    drawn = {f"random {seed}": Gates.random(*shape, seed) for seed in SEEDS}
    for sparsity in sparsities:
        for name, gates in ({gates.method: gates for gates in trained} | drawn).items():
            yield name, sparsity, gates.full_heads(sparsity)


@torch.no_grad()
def _answers(
    model: Gated, gates: torch.Tensor, problems: Sequence[Problem]
) -> list[tuple[bool, float]]:
    """Return whether each answer is the most likely one token by token, and its probability."""
    found: list[tuple[bool, float]] = [(False, 0.0)] * len(problems)
    for group in of_equal_length(problems):
        for start in range(0, len(group), _BATCH):
            places = group[start : start + _BATCH]
            own = [problems[place] for place in places]
            answers = stacked([one.answer for one in own])
            ids, first = stacked([one.ids for one in own]), len(own[0].prompt) - 1
            logits = model.logits(model.hidden(ids[:, :-1], gates)[:, first:])
            logs = logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0].sum(1)
            right = (logits.argmax(-1) == answers).all(1)
            for place, ok, log in zip(places, right.tolist(), logs.exp().tolist(), strict=True):
                found[place] = ok, log
    return found


def _values(rows: Sequence[Row], method: str, sparsity: float, key: str) -> np.ndarray:
    """Return the figures of each problem; those of random draws are averaged."""
    own = [row for row in rows if row["sparsity"] == sparsity]
    if method == "random":
        drawn = [_values(rows, f"random {seed}", sparsity, key) for seed in SEEDS]
        return np.mean(drawn, axis=0) if all(map(len, drawn)) else np.zeros(0)
    return np.array([float(row[key]) for row in own if row["method"] == method])  # type: ignore


def _print(rows: Sequence[Row], trained: set[str], sparsities: Sequence[float]) -> None:
    print("| heads | reduced | right | probability of the answer |")
    print("|---|---|---|---|")
    methods = [*sorted(trained, reverse=True), "random"]
    lines = [("full", 0.0), *((m, s) for s in sparsities for m in methods), ("all local", 1.0)]
    for method, sparsity in lines:
        cells = [_values(rows, method, sparsity, key) for key in ("right", "chance")]
        if len(cells[0]):
            shown = (f"{m:.3f} ({a:.3f} to {b:.3f})" for m, a, b in map(bootstrap, cells))
            print(f"| {method} | {sparsity:.0%} | " + " | ".join(shown) + " |")
    print("\n| difference, paired | reduced | right | probability of the answer |")
    print("|---|---|---|---|")
    for sparsity in sparsities:
        for one, other in combinations(methods, 2):
            pairs = [
                (_values(rows, one, sparsity, key), _values(rows, other, sparsity, key))
                for key in ("right", "chance")
            ]
            if all(len(a) and len(a) == len(b) for a, b in pairs):
                found = (bootstrap(a - b) for a, b in pairs)
                shown = (f"{m:+.3f} ({a:+.3f} to {b:+.3f})" for m, a, b in found)
                print(f"| {one} - {other} | {sparsity:.0%} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
