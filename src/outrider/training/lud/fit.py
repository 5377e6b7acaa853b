"""Tunes a target on texts whose lexical units end in pads, and counts right guesses."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, optim

from outrider.training.core.config import Stage
from outrider.training.core.loop import StageRun, StopSignal, TrainingStopped, run_stage
from outrider.training.core.state import save_tensors
from outrider.training.heads.recording import Example
from outrider.training.lud.config import LudRecipe
from outrider.training.lud.tuned import Tuned
from outrider.training.lud.units import (
    NONE,
    Sample,
    Span,
    beside,
    in_place,
    lexical_units,
    passes,
    plain,
)

_PLACES = 48
"""Places of a held-out text after which guesses are counted."""
_TOLD_SECONDS = 20.0


@torch.no_grad()
def label_chances(tuned: Tuned, sample: Sample) -> NDArray[np.float64]:
    """Return `[rows]`: the probability of each label; 0 where there is none."""
    found = np.zeros(len(sample.labels))
    given = sample.labels != NONE
    rows = tuned.logits([sample]).double().softmax(-1)
    labels = torch.from_numpy(sample.labels[given])
    found[given] = rows.gather(1, labels[:, None])[:, 0].numpy()
    return found


def text_chances(
    tuned: Tuned,
    examples: Sequence[Example],
    file: Path,
    report: Callable[[str], None],
    stop: StopSignal,
) -> list[NDArray[np.float64]]:
    """Return the label chances of each text, of a target whose updates are still zero.

    They are written to `file`, and read from it if it holds those of as many rows.

    Raises:
        TrainingStopped: `stop` asked for it.
    """
    ends = np.cumsum([len(one.ids) - 1 for one in examples])
    if file.is_file():
        stored = load_file(file)["chances"].double().numpy()
        if len(stored) == ends[-1]:
            return np.split(stored, ends[:-1])
    found: list[NDArray[np.float64]] = []
    told = time.monotonic()
    for one in examples:
        found.append(label_chances(tuned, plain(one.ids, one.first)))
        if stop.asked:
            raise TrainingStopped("the lexical units are not found yet", hint="Run again")
        if time.monotonic() - told > _TOLD_SECONDS:
            told = time.monotonic()
            report(f"lexical units of {len(found):,} of {len(examples):,} texts")
    save_tensors(file, {"chances": torch.from_numpy(np.concatenate(found))})
    return found


def find_units(
    chances: Sequence[NDArray[np.float64]],
    examples: Sequence[Example],
    alpha: float,
    report: Callable[[str], None],
) -> list[list[Span]]:
    """Return the lexical units of each text."""
    pairs = zip(chances, examples, strict=True)
    found = [lexical_units(own, alpha, one.first) for own, one in pairs]
    rows = sum(stop - start for units in found for start, stop in units)
    total = sum(len(one.ids) - 1 - one.first for one in examples)
    count = sum(map(len, found))
    report(
        f"{count:,} lexical units hold {rows / total:.0%} of {total:,} tokens, "
        f"{rows / max(count, 1):.1f} each"
    )
    return found


class Samples:
    """The samples of a training, by number; each pass over the texts has another order.

    Args:
        examples: the texts.
        units: the lexical units of each.
        recipe: k, form, share of plain texts and seed.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        units: Sequence[Sequence[Span]],
        recipe: LudRecipe,
    ) -> None:
        self._examples, self._recipe = examples, recipe
        self._runs = [passes(own, recipe.k) for own in units]

    def __getitem__(self, number: int) -> Sample:
        """Return the sample with this number, counted over all passes."""
        recipe = self._recipe
        turn, place = divmod(number, len(self._examples))
        rng = np.random.default_rng((recipe.seed, turn))
        chosen = int(rng.permutation(len(self._examples))[place])
        example, runs = self._examples[chosen], self._runs[chosen]
        if recipe.form == "beside":
            return beside(example.ids, example.first, runs)
        if rng.random(len(self._examples))[chosen] < recipe.plain_share:
            return plain(example.ids, example.first)
        return in_place(example.ids, example.first, runs)


def fit(
    tuned: Tuned,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    recipe: LudRecipe,
    folder: Path,
    stop: StopSignal,
    report: Callable[[str], None],
) -> None:
    """Tune; an interrupted training continues from the checkpoint in `folder`.

    Raises:
        TrainingStopped: `stop` asked for it, with a checkpoint.
    """
    chances = text_chances(tuned, examples, folder / "chances.safetensors", report, stop)
    samples = Samples(examples, find_units(chances, examples, recipe.alpha, report), recipe)
    # The loop counts tokens in rows of `sequence_length`; here it counts texts.
    stage = Stage(
        tokens=max(1, round(len(examples) * recipe.passes)),
        sequence_length=1,
        batch=recipe.texts,
        micro_batch=recipe.texts,
        learning_rate=recipe.learning_rate,
        warmup_tokens=4 * recipe.texts,
        max_minutes=recipe.max_minutes,
    )

    def step(row: int) -> dict[str, float]:
        loss = tuned.loss([samples[row + i] for i in range(recipe.texts)])
        loss.backward()
        return {"loss": loss.item()}

    run_stage(
        StageRun(
            name="lud",
            folder=folder,
            stage=stage,
            models={"lud": tuned},
            optimizers={"adamw": optim.AdamW(tuned.parameters(), lr=0.0, weight_decay=0.0)},
            step=step,
            evaluate=lambda: {"text_loss": text_loss(tuned, held_out)},
            stop=stop,
        )
    )


@torch.no_grad()
def text_loss(tuned: Tuned, examples: Sequence[Example]) -> float:
    """Return the mean cross-entropy of the answers as they are, in nats for a token."""
    losses, counts = zip(
        *((float(tuned.loss([sample])), int((sample.labels != NONE).sum()))
        for sample in (plain(one.ids, one.first) for one in examples)),
        strict=True,
    )  # fmt: skip
    return float(np.dot(losses, counts) / sum(counts))


@torch.no_grad()
def guess_rates(
    tuned: Tuned, examples: Sequence[Example], k: int, ranks: int
) -> Float[Tensor, "guesses ranks"]:
    """Return how often the guess of each rank is right, for each pad of a pass.

    Passes begin at evenly spaced places of the answers, in lexical units or not.
    """
    hits, count = torch.zeros(k - 1, ranks, dtype=torch.float64), 0
    for one in examples:
        places = one.places(k - 1)
        places = places[:: max(1, -(-len(places) // _PLACES))]
        if not len(places):
            continue
        sample = beside(one.ids, one.first, [(int(place), int(place) + k) for place in places])
        logits = tuned.logits([sample])[-len(places) * (k - 1) :]
        best = logits.topk(ranks, dim=-1).indices.view(len(places), k - 1, ranks)
        ahead = torch.from_numpy(one.ids[places[:, None] + 2 + np.arange(k - 1)])
        hits += (best == ahead[..., None]).sum(0)
        count += len(places)
    return (hits / max(count, 1)).float()
