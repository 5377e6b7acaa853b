"""The loss of a stop head, and its training."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.policies import StopHead
from outrider.training.stop.data import Drafted


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How a head is trained; `StopRecipe` documents the fields."""

    layers: int = 3
    mismatch_weight: float = 6.0
    epochs: int = 3
    batch: int = 256
    learning_rate: float = 1e-3
    warmup: float = 0.03
    seed: int = 0


def fresh_head(width: int, layers: int, mismatch_weight: float, seed: int) -> StopHead:
    """Return a head whose chance is 0.5 for every state, with small random layers."""
    generator = torch.Generator().manual_seed(seed)
    scale = 0.1 / math.sqrt(width)
    return StopHead(
        layers=tuple(scale * torch.randn(width, width, generator=generator) for _ in range(layers)),
        weight=torch.zeros(2, width),
        bias=torch.zeros(2),
        mismatch_weight=mismatch_weight,
    )


def stop_loss(
    odds: Float[Tensor, " tokens"], kept: Float[Tensor, " tokens"], mismatch_weight: float
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy with soft labels: -k log s - w (1 - k) log(1 - s), where k is
    the chance that a token is kept and s the head's."""
    refused = mismatch_weight * (1.0 - kept)
    return (kept * F.softplus(-odds) + refused * F.softplus(odds)).mean()


def fit_head(found: Drafted, fitting: Fitting) -> StopHead:
    """Train a head with AdamW on the drafted tokens; the draft model itself stays as it is."""
    head = fresh_head(found.states.shape[1], fitting.layers, fitting.mismatch_weight, fitting.seed)
    weights = [*head.layers, head.weight, head.bias]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(weights, lr=fitting.learning_rate, weight_decay=0.01)
    generator = torch.Generator().manual_seed(fitting.seed)
    steps = fitting.epochs * math.ceil(len(found) / fitting.batch)
    kept, done = found.kept.float(), 0
    for _ in range(fitting.epochs):
        for part in torch.randperm(len(found), generator=generator).split(fitting.batch):
            for group in optimizer.param_groups:
                group["lr"] = fitting.learning_rate * _rate(done, steps, fitting.warmup)
            optimizer.zero_grad()
            loss = stop_loss(head.odds(found.states[part]), kept[part], fitting.mismatch_weight)
            loss.backward()
            optimizer.step()
            done += 1
    for weight in weights:
        weight.requires_grad_(False)
    return head


def _rate(step: int, steps: int, warmup: float) -> float:
    """Return the learning rate of a step, relative to the largest: up, then down as a cosine."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))
