"""Ten labels learned two at a time: what a Discrete Key-Value Bottleneck forgets, beside heads.

    python -m benchmarks.kv_cache.bottleneck trivia.safetensors --rows rows.jsonl --seconds 560
    python -m benchmarks.kv_cache.bottleneck --show rows.jsonl

The features are those of `benchmarks.kv_cache.bottleneck_states`. Every system gets them
standardised by the features without labels, learns the same batches in the same order with plain
gradient descent, and chooses among ten labels at test; none sees earlier tasks again. A seed
draws the split (5/8 for training, 1/8 for choosing, 2/8 for the test), the tasks, the keys and the
first weights. Each system has its own learning rate, the one with the best accuracy on all labels
after the last task, on the part for choosing; the test part only judges. `joint` learns all labels
at once: the upper bound. `random keys` and `one book` switch the paper's ideas off; `used only`
leaves keys out that were never learned. The nearest mean of a class
needs no rate, and its means never change; only further classes compete.
Intervals are bootstraps over seeds; differences are paired.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from time import perf_counter, process_time

import torch
import torch.nn.functional as F
from benchmarks.long_inputs.intervals import bootstrap
from safetensors.torch import load_file
from torch import Tensor, nn

from outrider.memories.bottleneck import Bottleneck, Keys, KeySettings, fit_keys, random_keys
from outrider.training.bottleneck.fit import Examples, Fitting, History, accuracy, learn_tasks

SEEDS, LABELS, PER_TASK, BATCH = range(5), 10, 2, 32
SETTINGS = KeySettings(books=64, keys=256, size=14)
HIDDEN = 256
HEAD_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
BOOK_RATES = (0.1, 1.0, 10.0, 100.0, 1000.0)

Part = tuple[Tensor, Tensor]
"""Features and labels."""


@dataclass(frozen=True)
class Split:
    """The tasks of a seed, each for training, choosing and the test, and plain features."""

    seed: int
    learned: Sequence[Part]
    choosing: Sequence[Part]
    test: Sequence[Part]
    plain: Tensor


def split(states: Tensor, labels: Tensor, seed: int) -> Split:
    """Draw the tasks and the three parts of a seed."""
    generator = torch.Generator().manual_seed(seed)
    plain = states[labels < 0]
    states = (states - plain.mean(0)) / plain.std(0).clamp_min(1e-6)
    parts: list[list[Part]] = [[], [], []]
    for task in torch.randperm(LABELS, generator=generator).split(PER_TASK):
        pieces: list[list[Tensor]] = [[], [], []]
        for label in task.tolist():
            rows = (labels == label).nonzero()[:, 0]
            rows = rows[torch.randperm(len(rows), generator=generator)]
            ends = [len(rows) * 5 // 8, len(rows) * 6 // 8]
            for piece, own in zip(pieces, rows.tensor_split(ends), strict=True):
                piece.append(own)
        for part, piece in zip(parts, pieces, strict=True):
            chosen = torch.cat(piece)
            part.append((states[chosen], labels[chosen]))
    return Split(seed, parts[0], parts[1], parts[2], states[labels < 0])


def joined(parts: Sequence[Part]) -> list[Part]:
    """All tasks as one."""
    return [(torch.cat([s for s, _ in parts]), torch.cat([n for _, n in parts]))]


def head(kind: str, width: int, seed: int) -> nn.Module:
    """A fresh linear head, or one with a hidden layer."""
    torch.manual_seed(seed)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, LABELS))
    linear = nn.Linear(width, LABELS)
    for weight in linear.parameters():
        nn.init.zeros_(weight)  # as the values of a memory; better than random ones at small rates
    return linear


def run_head(
    kind: str, tasks: Sequence[Part], tests: Sequence[Sequence[Part]], fitting: Fitting
) -> list[History]:
    """Learn tasks with a head; the order of batches is that of `fit.learn`."""
    module = head(kind, tasks[0][0].shape[1], fitting.seed)
    rows: list[list[tuple[float, ...]]] = [[] for _ in tests]
    for states, labels in tasks:
        generator = torch.Generator().manual_seed(fitting.seed)
        for _ in range(fitting.epochs):
            for part in torch.randperm(len(labels), generator=generator).split(fitting.batch):
                module.zero_grad()
                F.cross_entropy(module(states[part]), labels[part]).backward()
                with torch.no_grad():
                    for weight in module.parameters():
                        weight -= fitting.rate * weight.grad  # type: ignore[operator]
        with torch.no_grad():
            for own, test in zip(rows, tests, strict=True):
                own.append(tuple(float((module(s).argmax(1) == n).float().mean()) for s, n in test))
    return [History(tuple(own)) for own in rows]


def run_memory(
    keys: Keys, tasks: Sequence[Examples], tests: Sequence[Sequence[Examples]], fitting: Fitting
) -> tuple[list[History], Bottleneck]:
    """Learn tasks with a memory."""
    memory = Bottleneck.empty(keys, [str(i) for i in range(LABELS)])
    own = [one for test in tests for one in test]
    rows = learn_tasks(memory, tasks, own, fitting).rows
    found, start = [], 0
    for test in tests:
        found.append(History(tuple(row[start : start + len(test)] for row in rows)))
        start += len(test)
    return found, memory


def class_means(one: Split) -> History:
    """The nearest mean of a class, among the classes so far."""
    rows, means = [], torch.full((LABELS, one.plain.shape[1]), float("inf"))
    for states, labels in one.learned:
        for label in labels.unique().tolist():
            means[label] = states[labels == label].mean(0)
        near = [(torch.cdist(s, means).nan_to_num(float("inf")).argmin(1), n) for s, n in one.test]
        rows.append(tuple(float((best == n).float().mean()) for best, n in near))
    return History(tuple(rows))


Row = Mapping[str, str | float | int]


Done = Set[tuple[str, int, float]]
"""Rows that are in the file: system, seed and rate."""


def row(system: str, seed: int, rate: float, chosen: float, judged: History, cpu: float) -> Row:
    """A line of the file of rows."""
    return {
        "system": system,
        "seed": seed,
        "rate": rate,
        "choosing": chosen,
        "final": judged.final,
        "forgetting": judged.forgetting,
        "first": judged.rows[-1][0],
        "cpu": cpu,
    }


def left(system: str, seed: int, rates: Sequence[float], done: Done) -> list[float]:
    """The rates whose rows are missing."""
    return [rate for rate in rates if (system, seed, rate) not in done]


def heads(one: Split, epochs: int, done: Done) -> Iterator[Row]:
    """Both heads, in tasks and at once, with all rates."""
    for kind in ("linear", "mlp"):
        for name, of in (("", list), (" joint", joined)):
            for rate in left(kind + name, one.seed, HEAD_RATES, done):
                begun = process_time()
                fitting = Fitting(rate=rate, epochs=epochs, batch=BATCH, seed=one.seed)
                chosen, judged = run_head(
                    kind, of(one.learned), [of(one.choosing), of(one.test)], fitting
                )
                yield row(kind + name, one.seed, rate, chosen.final, judged, process_time() - begun)


def memories(one: Split, epochs: int, settings: KeySettings, done: Done) -> Iterator[Row]:
    """The bottleneck and what is left of it without its ideas, with all rates."""
    settings = replace(settings, seed=one.seed)
    made: Mapping[str, Callable[[], Keys]] = {
        "bottleneck": lambda: fit_keys(one.plain, settings),
        "random keys": lambda: random_keys(one.plain, settings),
        "one book": lambda: fit_keys(one.plain, replace(settings, books=1)),
    }
    for system, make in made.items():
        names = [f"{system} joint", system] if system == "bottleneck" else [system]
        if not any(left(name, one.seed, BOOK_RATES, done) for name in names):
            continue
        keys = make()
        parts = [
            [Examples(keys.fetch(states), labels) for states, labels in part]
            for part in (one.learned, one.choosing, one.test)
        ]
        whole = [
            [Examples(torch.cat([p.fetched for p in part]), torch.cat([p.labels for p in part]))]
            for part in parts
        ]
        for name in names:
            tasks, *tests = whole if name.endswith("joint") else parts
            for rate in left(name, one.seed, BOOK_RATES, done):
                begun = process_time()
                fitting = Fitting(rate=rate, epochs=epochs, batch=BATCH, seed=one.seed)
                (chosen, judged), memory = run_memory(keys, tasks, tests, fitting)
                cpu = process_time() - begun
                if name == "bottleneck":
                    yield used_only(memory, one, rate, judged)
                yield row(name, one.seed, rate, chosen.final, judged, cpu)


def used_only(memory: Bottleneck, one: Split, rate: float, judged: History) -> Row:
    """The same memory after the last task, without keys that were never learned."""
    final = [
        tuple(
            accuracy(memory, Examples(memory.keys.fetch(states, memory.used), labels))
            for states, labels in part
        )
        for part in (one.choosing, one.test)
    ]
    rows = History((*judged.rows[:-1], final[1]))
    return row("used only", one.seed, rate, sum(final[0]) / len(final[0]), rows, 0.0)


def measured(given: argparse.Namespace) -> None:
    """Write the rows of all seeds that the file lacks."""
    tensors = load_file(given.features)
    rows = read(given.rows) if given.rows.is_file() else []
    done = {(one["system"], one["seed"], one["rate"]) for one in rows}
    until = perf_counter() + given.seconds
    settings = replace(SETTINGS, books=given.books, keys=given.keys)
    for seed in SEEDS:
        one = split(tensors["states"], tensors["labels"], seed)
        found = chain(heads(one, given.epochs, done), memories(one, given.epochs, settings, done))
        with given.rows.open("a") as file:
            if ("class means", seed, 0.0) not in done:
                own = row("class means", seed, 0.0, 0.0, class_means(one), 0.0)
                print(json.dumps(own), file=file)
            for own in found:
                print(json.dumps(own), file=file, flush=True)
                if perf_counter() > until:
                    return
        print(f"seed {seed}: {sum(len(n) for _, n in one.learned)} learned", flush=True)


def read(file: Path) -> list[dict]:
    """All rows of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def shown(rows: Sequence[dict]) -> None:
    """Print the table: each system at the rate that was chosen for each seed."""
    best: dict[str, dict[int, dict]] = defaultdict(dict)
    for own in rows:
        kept = best[own["system"]].setdefault(own["seed"], own)
        if own["choosing"] > kept["choosing"]:
            best[own["system"]][own["seed"]] = own
    base = best["linear"]
    print("| system | all ten labels | first task | forgotten | against linear | rates |")
    print("|---|---|---|---|---|---|")
    for system, seeds in best.items():
        final, first, lost = (
            bootstrap([100.0 * seeds[seed][key] for seed in sorted(seeds)])
            for key in ("final", "first", "forgetting")
        )
        pairs = [100.0 * (seeds[s]["final"] - base[s]["final"]) for s in sorted(seeds) if s in base]
        gain = bootstrap(pairs)
        rates = sorted({own["rate"] for own in seeds.values()})
        cells = ["{:.1f} [{:.1f}, {:.1f}]".format(*cell) for cell in (final, first, lost)] + [
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(*gain),
            ", ".join(f"{r:g}" for r in rates),
        ]
        print(f"| {system} | {' | '.join(cells)} |")
    print(f"{len({own['seed'] for own in rows})} seeds")


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("features", type=Path, nargs="?")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--show", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--books", type=int, default=SETTINGS.books)
    parser.add_argument("--keys", type=int, default=SETTINGS.keys)
    parser.add_argument("--seconds", type=float, default=560.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.features:
        measured(given)
    shown(read(given.show or given.rows))


if __name__ == "__main__":
    main()
