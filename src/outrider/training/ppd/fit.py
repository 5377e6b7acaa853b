"""Trains prompt tokens: the target's own distributions, some tokens ahead, are the labels."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.training.core.loop import StopSignal, TrainingStopped
from outrider.training.heads.recording import Example
from outrider.training.ppd.guesses import Guesser, ReadText

DECAY = 0.8
"""Weight of each further prompt token in the loss, relative to the one before."""
_LOWEST = 0.02
"""The last learning rate, relative to the first one."""
_TOLD_SECONDS = 30.0


def fresh_table(
    guesser: Guesser, prompts: int, copies: int, seed: int
) -> Float[Tensor, "prompts copies hidden"]:
    """Return first embeddings: those of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(guesser.target.info.vocab_size, (prompts * copies,), generator=generator)
    rows = guesser.target.embed(ids.numpy()).detach().clone()
    return rows.view(prompts, copies, -1)


def loss_of(
    table: Float[Tensor, "prompts copies hidden"],
    guesser: Guesser,
    text: ReadText,
    places: IntArray,
) -> Float[Tensor, ""]:
    """Return the mean over places and prompt tokens of `0.8^i KL(target || guess)`, in nats.

    Prompt token i (from 0) after place p stands where token p + 1 + i will be, and is compared with
    the target's distribution after that token.
    """
    guesses = guesser.logits(table, text, places).log_softmax(-1)
    prompts = len(table)
    ahead = places[:, None] + 1 + np.arange(prompts) - text.first
    labels = text.logits[torch.from_numpy(ahead)].log_softmax(-1)
    kl = F.kl_div(guesses, labels, reduction="none", log_target=True).sum(-1)
    weights = DECAY ** torch.arange(prompts, dtype=kl.dtype)
    return (kl * weights).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How prompt tokens are trained.

    Attributes:
        prompts: number of prompt tokens.
        copies: embeddings of each; the logits of the copies are averaged.
        places: places of a text after which prompt tokens are trained.
        texts: texts of a step.
        passes: passes over the texts.
        learning_rate: the first one; it falls as a cosine.
        max_minutes: minutes after which training ends; None: after all passes.
        seed: seed of embeddings, places and order.
    """

    prompts: int
    copies: int
    places: int
    texts: int
    passes: float
    learning_rate: float
    max_minutes: float | None
    seed: int


def fit(
    guesser: Guesser,
    examples: Sequence[Example],
    settings: FitSettings,
    report: Callable[[str], None],
    stop: StopSignal | None = None,
) -> Float[Tensor, "prompts copies hidden"]:
    """Return trained embeddings.

    Args:
        guesser: the frozen target.
        examples: texts with at least one place.
        settings: see `FitSettings`.
        report: called with lines about the progress.
        stop: whether to stop.

    Raises:
        TrainingStopped: `stop` asked for it.
    """
    rng = np.random.default_rng(settings.seed)
    table = fresh_table(guesser, settings.prompts, settings.copies, settings.seed)
    table.requires_grad_()
    adam = torch.optim.Adam([table], lr=settings.learning_rate)
    steps = max(1, round(len(examples) * settings.passes / settings.texts))
    order = np.concatenate(
        [rng.permutation(len(examples)) for _ in range(-(-steps * settings.texts // len(examples)))]
    )
    begun, told, recent = time.monotonic(), 0.0, list[float]()
    for step in range(steps):
        seconds = time.monotonic() - begun
        share = step / steps
        if settings.max_minutes is not None:
            share = max(share, seconds / (60 * settings.max_minutes))
        if share >= 1:
            break
        rate = _LOWEST + (1 - _LOWEST) * 0.5 * (1 + math.cos(math.pi * share))
        adam.param_groups[0]["lr"] = settings.learning_rate * rate
        chosen = order[step * settings.texts : (step + 1) * settings.texts]
        recent.append(_step(guesser, table, [examples[i] for i in chosen], settings, rng))
        adam.step()
        adam.zero_grad(set_to_none=True)
        if stop is not None and stop.asked:
            raise TrainingStopped("the prompt tokens are not trained", hint="Run again")
        if seconds - told > _TOLD_SECONDS:
            told = seconds
            report(f"training: {share:.0%}, loss {sum(recent[-20:]) / len(recent[-20:]):.3f}")
    return table.detach()


def _step(
    guesser: Guesser,
    table: Float[Tensor, "prompts copies hidden"],
    examples: Sequence[Example],
    settings: FitSettings,
    rng: np.random.Generator,
) -> float:
    """Add the gradients of some texts; return their mean loss."""
    total = 0.0
    for example in examples:
        known = example.places(settings.prompts)
        count = min(settings.places, len(known))
        places = np.sort(rng.choice(known, count, replace=False))
        loss = loss_of(table, guesser, guesser.read(example.ids, example.first), places)
        (loss / len(examples)).backward()
        total += loss.item() / len(examples)
    return total


@torch.no_grad()
def rank_rates(
    guesser: Guesser,
    table: Float[Tensor, "prompts copies hidden"],
    examples: Sequence[Example],
    ranks: int,
    limit: int = 64,
) -> Float[Tensor, "prompts ranks"]:
    """Return how often the token that follows is the guess of each rank, for each prompt token.

    Args:
        guesser: the frozen target.
        table: the embeddings.
        examples: texts that training has not seen.
        ranks: number of ranks.
        limit: largest number of places of a text.
    """
    prompts = len(table)
    hits, count = torch.zeros(prompts, ranks, dtype=torch.float64), 0
    for example in examples:
        places = example.places(prompts)
        places = places[:: -(-len(places) // limit)]
        text = guesser.read(example.ids, example.first)
        best = guesser.logits(table, text, places).topk(ranks, dim=-1).indices
        ahead = places[:, None] + 2 + np.arange(prompts)
        hits += (best == torch.from_numpy(example.ids[ahead])[..., None]).sum(0)
        count += len(places)
    return (hits / max(count, 1)).float()
