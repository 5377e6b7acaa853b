"""Trains a filter on what an oracle would commit, and measures its errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from outrider.models.denoisers.filter import UnmaskingFilter
from outrider.training.unmasking.oracle import Seen


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Rounds of many answers; `Seen` documents the fields.

    Attributes:
        texts: `[rounds]`, the number of the answer.
    """

    confidences: Float[Tensor, "rounds block"]
    correct: Bool[Tensor, "rounds block"]
    within: Bool[Tensor, "rounds block"]
    masked: Bool[Tensor, "rounds block"]
    texts: Int[Tensor, " rounds"]

    @classmethod
    def of(cls, answers: Sequence[Sequence[Seen]]) -> "Examples":
        """Collect the rounds of all answers."""
        rounds = [one for answer in answers for one in answer]
        texts = [number for number, answer in enumerate(answers) for _ in answer]
        return cls(
            confidences=torch.stack([one.confidences for one in rounds]),
            correct=torch.stack([one.correct for one in rounds]),
            within=torch.stack([one.within for one in rounds]),
            masked=torch.stack([one.masked for one in rounds]),
            texts=torch.tensor(texts),
        )

    def __len__(self) -> int:
        return len(self.texts)

    def among(self, texts: Int[Tensor, " chosen"]) -> "Examples":
        """Return the rounds of some answers."""
        kept = torch.isin(self.texts, texts)
        return Examples(
            self.confidences[kept],
            self.correct[kept],
            self.within[kept],
            self.masked[kept],
            self.texts[kept],
        )

    def split(self, seed: int) -> tuple["Examples", "Examples", "Examples"]:
        """Return 80, 10 and 10 per cent of the answers: to train, to choose, and to measure.

        All rounds of an answer are in the same part.
        """
        count = int(self.texts.max()) + 1
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        tenth = max(1, count // 10)
        parts = order.split([count - 2 * tenth, tenth, tenth])
        return self.among(parts[0]), self.among(parts[1]), self.among(parts[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How a filter is trained; `UnmaskingRecipe` documents the fields."""

    steps: int = 8000
    evaluate_every: int = 100
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Errors:
    """What is accepted among the masked positions.

    Attributes:
        false_positives: share of the wrong predictions that are accepted.
        recall: share of the right predictions that are accepted.
        precision: share of the accepted predictions that are right; 1 if none is accepted.
        positions: masked positions.
    """

    false_positives: float
    recall: float
    precision: float
    positions: int


def loss_of(found: UnmaskingFilter, rows: Examples) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over all positions of answers."""
    odds = found.scores(rows.confidences)[rows.within]
    return F.binary_cross_entropy_with_logits(odds, rows.correct[rows.within].float())


def fresh(block: int, fingerprint: str, seed: int) -> UnmaskingFilter:
    """Return a filter with small random weights."""
    random, bound = torch.Generator().manual_seed(seed), 1 / math.sqrt(block)

    def drawn(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=random) - 1) * bound

    names = {"weight": (block, block), "bias": (block,)}
    weights = {f"{side}.{n}": drawn(*s) for side in ("inner", "outer") for n, s in names.items()}
    return UnmaskingFilter(weights, fingerprint)


def fit(
    train: Examples, validation: Examples, fingerprint: str, fitting: Fitting
) -> tuple[UnmaskingFilter, list[float]]:
    """Train with AdamW on all rows at once; return the filter of the lowest validation loss, and
    all validation losses."""
    found = fresh(train.confidences.shape[1], fingerprint, fitting.seed)
    weights = [weight.requires_grad_() for weight in found.weights.values()]
    optimizer = torch.optim.AdamW(weights, lr=fitting.learning_rate)
    best, losses = math.inf, list[float]()
    kept: dict[str, Tensor] = {}
    for step in range(fitting.steps):
        optimizer.zero_grad()
        loss_of(found, train).backward()
        optimizer.step()
        if step % fitting.evaluate_every and step + 1 < fitting.steps:
            continue
        with torch.no_grad():
            losses.append(float(loss_of(found, validation)))
        if losses[-1] < best:
            best = losses[-1]
            kept = {name: weight.detach().clone() for name, weight in found.weights.items()}
    return UnmaskingFilter(kept, fingerprint), losses


def errors(accepted: Bool[Tensor, "rounds block"], rows: Examples) -> Errors:
    """Count what is accepted among the masked positions."""
    right, chosen = rows.correct[rows.masked], accepted[rows.masked]
    both = int((right & chosen).sum())
    return Errors(
        false_positives=float((chosen & ~right).sum()) / max(int((~right).sum()), 1),
        recall=both / max(int(right.sum()), 1),
        precision=both / int(chosen.sum()) if bool(chosen.any()) else 1.0,
        positions=len(right),
    )
