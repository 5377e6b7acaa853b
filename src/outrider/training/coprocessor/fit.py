"""Trains a coprocessor on windows of a corpus, and measures the loss after its latents."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, optim

from outrider.core.types import IntArray
from outrider.training.coprocessor.augmenter import Augmenter
from outrider.training.coprocessor.config import CoprocessorRecipe
from outrider.training.coprocessor.traces import Traces, spread
from outrider.training.core.corpus import Windows
from outrider.training.core.loop import StageRun, StopSignal, run_stage

_TOGETHER = 4
"""Texts of one forward in a measurement."""


def traced(rows: IntArray, recipe: CoprocessorRecipe, number: int) -> list[Traces]:
    """Return the traces of each window `[windows, tokens]`.

    The places depend on the seed of the recipe and on the number of the window, which is counted
    from `number`.
    """
    found: list[Traces] = []
    for place, ids in enumerate(rows, start=number):
        rng = np.random.default_rng((recipe.seed, place))
        points = spread(len(ids), recipe.points, recipe.ahead, rng)
        found.append(Traces(ids, points, recipe.latents, recipe.ahead))
    return found


def held_out_traces(folder: Path, recipe: CoprocessorRecipe) -> dict[str, list[Traces]]:
    """Return the traces of the held-out texts of each domain, as `build_corpus` wrote them."""
    length = recipe.stage.sequence_length
    found: dict[str, list[Traces]] = {}
    for path in sorted(folder.glob("heldout.*.npy")):
        stream = np.load(path).astype(np.int64)
        rows = min(len(stream) // length, recipe.held_out)
        name = path.name.removeprefix("heldout.").removesuffix(".npy")
        found[name] = traced(stream[: rows * length].reshape(rows, length), recipe, 0)
    return found


@torch.no_grad()
def held_out_losses(augmenter: Augmenter, texts: Sequence[Traces]) -> Float[Tensor, "traces ahead"]:
    """Return the losses of all traces."""
    parts = [texts[first : first + _TOGETHER] for first in range(0, len(texts), _TOGETHER)]
    return torch.cat([augmenter.losses(part) for part in parts])


def without_latents(texts: Sequence[Traces]) -> list[Traces]:
    """Return the same traces with no latents: the loss is that of the target alone."""
    return [replace(text, latents=0) for text in texts]


def fit(
    augmenter: Augmenter,
    stream: np.ndarray,
    held_out: dict[str, list[Traces]],
    recipe: CoprocessorRecipe,
    folder: Path,
    stop: StopSignal,
) -> None:
    """Train; an interrupted training continues from the checkpoint in `folder`.

    Raises:
        OptionError: the corpus has fewer tokens than a text.
        TrainingStopped: `stop` asked for it, with a checkpoint.
    """
    stage = recipe.stage
    windows = Windows(stream, stage.sequence_length, stage.stream, recipe.seed)
    parts = stage.batch // stage.micro_batch

    def step(row: int) -> dict[str, float]:
        total = 0.0
        for first in range(row, row + stage.batch, stage.micro_batch):
            texts = traced(windows.rows(first, stage.micro_batch), recipe, first)
            loss = augmenter.losses(texts).mean() / parts
            loss.backward()
            total += loss.item()
        return {"loss": total}

    def evaluate() -> dict[str, float]:
        means = {
            f"heldout/{name}": float(held_out_losses(augmenter, texts).mean())
            for name, texts in held_out.items()
        }
        return {"heldout": sum(means.values()) / max(len(means), 1), **means}

    run_stage(
        StageRun(
            name="coprocessor",
            folder=folder,
            stage=stage,
            models={"coprocessor": augmenter},
            optimizers={"adamw": optim.AdamW(augmenter.parameters(), lr=0.0, weight_decay=0.0)},
            step=step,
            evaluate=evaluate,
            stop=stop,
            checkpoint_minutes=recipe.checkpoint_minutes,
            evaluate_minutes=recipe.evaluate_minutes,
        )
    )
