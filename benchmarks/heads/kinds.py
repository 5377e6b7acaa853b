"""Draft heads of several kinds, trained alike on the same recorded answers of a target.

    outrider train head configs/heads/smollm2.toml --data data --out runs/head   # records answers
    python -m benchmarks.heads.kinds configs/heads/smollm2.toml --out runs/compared \\
        --texts runs/head/texts --heads eagle1 fspad fspad-sampling fspad-alignment --passes 4

`fspad-sampling` and `fspad-alignment` are heads of FSPAD with one of its two parts.
`clover-parallel` are heads of Clover that read no drafted token, and `clover-plain` has no layer in
front of them. Each head begins with the same seed and reads the same batches, one step of a chain
at a time, but all its `--steps` heads of Clover. The texts that are held out are the first ones.
Acceptance is that of greedy drafts along the recorded answers; intervals (95 %) draw whole texts;
differences are paired by text and are to the first head of the list.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.engine.options import is_family
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.writing import write_head
from outrider.models.sources.families import family
from outrider.models.sources.finding import local_folder
from outrider.training.core.config import read_table
from outrider.training.heads.config import HeadRecipe
from outrider.training.heads.data import RecordedTexts
from outrider.training.heads.loss import Counted, counted
from outrider.training.heads.run import HeadTrainer
from outrider.training.heads.start import Teacher

STEPS = 5
"""Steps of the chains that are measured."""
LENGTHS = (2, 3, 5)
"""Lengths of chains whose tokens a round are shown."""
RESAMPLES = 2000
_SHOWN = 4
"""Texts that are held out on which the trainer itself reports its progress."""


def main() -> None:
    """Train the heads that are not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", type=Path, help="a TOML file of `outrider train head`")
    parser.add_argument("--texts", type=Path, required=True, help="folder of recorded answers")
    parser.add_argument("--heads", nargs="+", required=True)
    parser.add_argument("--passes", type=float, default=6.0)
    parser.add_argument("--unrolled", type=float, default=0.0)
    parser.add_argument("--steps", type=int, help="steps of a chain that are trained")
    parser.add_argument("--layers", type=int, default=1, help="layers of Clover")
    parser.add_argument("--batch", type=int, default=4, help="texts of a batch")
    parser.add_argument("--rate", type=float, default=1e-3, help="the largest learning rate")
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_table(given.recipe, HeadRecipe)
    training = replace(
        recipe.training,
        single=given.passes,
        unrolled=given.unrolled,
        learning_rate=given.rate,
        texts=given.batch,
        held_out=given.held_out,
        steps=given.steps or recipe.training.steps,
        evaluate_minutes=1e9,
    )
    recipe = replace(recipe, training=training, seed=given.seed, layers=given.layers)
    target = family(recipe.target)["target"] if is_family(recipe.target) else recipe.target
    source = local_folder(target)
    teacher = Teacher.of(open_checkpoint(source))
    for name in given.heads:
        if not (given.out / name / "counts.json").is_file():
            run(of(recipe, name), source, teacher, given.texts, given.out / name)
    print(table({name: read(given.out / name / "counts.json") for name in given.heads}))


def of(recipe: HeadRecipe, name: str) -> HeadRecipe:
    """Return the recipe of one head."""
    kind, _, only = name.partition("-")
    parts = {part: only in ("", part) for part in ("sampling", "alignment")}
    layers = 0 if only == "plain" else recipe.layers
    parts["regressive"] = only != "parallel"
    return replace(recipe, kind=kind, name=name, layers=layers, **parts)


def run(recipe: HeadRecipe, source: Path, teacher: Teacher, texts: Path, folder: Path) -> None:
    """Train one head, write its files, and count on the texts that are held out."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, name = open_checkpoint(source), recipe.name
    hinted = recipe.kind == "hinted"
    recorded = RecordedTexts(texts, teacher.config.vocab_size, STEPS, hints=hinted)
    trainer = HeadTrainer(
        recipe, teacher, recorded, folder, lambda line: print(f"{name}: {line}", flush=True)
    )
    held_out = trainer.held_out
    trainer.held_out = held_out[:_SHOWN]
    before = time.process_time()
    trainer.run()
    seconds = time.process_time() - before
    ids = torch.from_numpy(trainer.ids)
    found = [
        counted(trainer.head, trainer._rotary, recorded.batch([place]), teacher.lm_head, ids)
        for place in held_out
    ]
    write_head(
        folder / name,
        trainer.config,
        trainer.tensors(),
        Verifier(
            name_or_path=recipe.target,
            architectures=tuple(checkpoint.config.get("architectures") or ()),
            tokenizer=Tokenizer.load(source).fingerprint,
        ),
        bits=None if recipe.kind == "eagle3" else 8,
        card=f"# {name}\n",
        rotary=checkpoint.config,
    )
    record = {
        "cpu_seconds": round(seconds, 1),
        "weights": sum(part.numel() for part in trainer.head.parameters()),
        "trained_tokens": sum(place.starts for place in trainer.training),
        "right": [one.right.tolist() for one in found],
        "tried": [one.tried.tolist() for one in found],
        "rounds": [one.rounds.tolist() for one in found],
        "tokens": [one.tokens for one in found],
    }
    (folder / "counts.json").write_text(json.dumps(record), encoding="utf-8")


def read(file: Path) -> tuple[dict[str, float], list[Counted]]:
    """Return what a run took, and the counts of each text."""
    record = json.loads(file.read_text(encoding="utf-8"))
    columns = ([np.array(one) for one in record[name]] for name in ("right", "tried", "rounds"))
    counts = [Counted(*one) for one in zip(*columns, record["tokens"], strict=True)]
    return {name: record[name] for name in ("cpu_seconds", "weights", "trained_tokens")}, counts


def table(heads: dict[str, tuple[dict[str, float], list[Counted]]]) -> str:
    """Return the figures of all heads as Markdown."""
    count = len(next(iter(heads.values()))[1])
    picked = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    whole = np.arange(count)[None]
    titles = ["right first tokens", "right second tokens"]
    titles += [f"tokens a round, chains of {length}" for length in LENGTHS]
    lines = [
        "| | weights | CPU-seconds | " + " | ".join(titles) + " |",
        "|---" * (len(titles) + 3) + "|",
    ]
    first = np.zeros(0), np.zeros(0)
    for place, (name, (took, counts)) in enumerate(heads.items()):
        own, drawn = figures(counts, whole)[:, 0], figures(counts, picked)
        cells = [shown(value, draws) for value, draws in zip(own, drawn, strict=True)]
        lines.append(
            f"| {name} | {took['weights'] / 1e6:.1f} M | {took['cpu_seconds']:.0f} | "
            + " | ".join(cells)
            + " |"
        )
        if place == 0:
            first = own, drawn
            continue
        gains = [
            shown(value, draws, sign=True)
            for value, draws in zip(own - first[0], drawn - first[1], strict=True)
        ]
        lines.append("| difference to the first | | | " + " | ".join(gains) + " |")
    return "\n".join(lines)


def figures(counts: Sequence[Counted], picked: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return `[figures, draws]`, each from the texts of one draw."""
    right, tried, rounds = (
        np.stack([getattr(one, name) for one in counts])[picked].sum(axis=1)
        for name in ("right", "tried", "rounds")
    )
    tokens = np.array([one.tokens for one in counts])[picked].sum(axis=1)
    rates = [right[:, step] / np.maximum(tried[:, step], 1) for step in (0, 1)]
    return np.stack([*rates, *(tokens / rounds[:, length - 1] for length in LENGTHS)])


def shown(value: float, draws: NDArray[np.float64], *, sign: bool = False) -> str:
    """Return a figure with its interval."""
    low, high = np.quantile(draws, (0.025, 0.975))
    form = "+.3f" if sign else ".3f"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


if __name__ == "__main__":
    main()
