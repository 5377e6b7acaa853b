"""Medusa heads before, during and after training: their start, their loss, and their accuracies."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.models.heads.config import HeadKind, HeadShape
from outrider.models.heads.medusa.config import RANKS, MedusaConfig, mix_of
from outrider.models.heads.medusa.module import MedusaModule, untrained
from outrider.models.heads.module import HeadNetwork
from outrider.models.llama.rope import RotaryTable
from outrider.training.heads.data import RecordedTexts, TextPlace
from outrider.training.heads.start import FACTORS, Normal, Teacher
from outrider.training.heads.unroll import Step, Texts, medusa_steps, unroll

_DECAY = 0.8
"""The weight of each head, relative to the head before (Medusa-1)."""


def fresh_medusa(
    teacher: Teacher, last: int, ids: IntArray, heads: int
) -> tuple[MedusaConfig, dict[str, Tensor]]:
    """Return the configuration and the tensors of untrained heads.

    Args:
        teacher: parts of the target.
        last: number of the last hidden state.
        ids: the draft vocabulary, ascending.
        heads: number of heads.
    """
    config = MedusaConfig(
        kind=HeadKind.MEDUSA,
        states=(last,),
        target_width=teacher.config.hidden_size,
        target_vocab=teacher.config.vocab_size,
        heads=heads,
        drafts=len(ids),
    )
    return config, untrained(config) | {"ids": torch.from_numpy(ids)}


def further_medusa(
    config: HeadShape, tensors: dict[str, Tensor], heads: int
) -> tuple[HeadShape, dict[str, Tensor]]:
    """Return a trained head without what training measures again; other kinds as they are.

    Args:
        config: the shape of the head.
        tensors: its tensors.
        heads: number of heads of the recipe.

    Raises:
        OptionError: it has another number of heads, or output rows of its own.
    """
    if not isinstance(config, MedusaConfig):
        return config, tensors
    if config.heads != heads or config.own_rows:
        rows = "their own" if config.own_rows else "shared"
        raise OptionError(
            f"training.start holds {config.heads} Medusa heads with {rows} output rows, and the "
            f"recipe has {heads} with shared ones",
            hint="Give heads that were trained with the same recipe, or leave out training.start",
        )
    return config, {name: tensor for name, tensor in tensors.items() if name != "accuracies"}


@torch.no_grad()
def fit_mixes(head: MedusaModule, texts: RecordedTexts, places: Sequence[TextPlace]) -> None:
    """Fit the square matrix of each head by ridge regression: it predicts the state in which the
    target chooses the token of that head."""
    width, heads = head.config.width, range(head.config.heads)
    normals = [Normal(width, width) for _ in heads]
    for place in places:
        batch = texts.batch([place])
        states = batch.states[0, place.prompt - 1 :, -1]
        for ahead, normal in enumerate(normals, start=1):
            if len(states) > ahead:
                normal.add(states[:-ahead], states[ahead:])
    for number, normal in zip(heads, normals, strict=True):
        head.part(mix_of(number)).copy_(normal.solve())


def soften_mixes(head: MedusaModule, texts: Texts, ids: Tensor) -> list[float]:
    """Scale the logits of fitted Medusa heads (`soften_heads`); return the factors."""
    steps = medusa_steps(head, texts, head.config.heads)
    return soften_heads(head, steps, texts, ids, lambda number: (mix_of(number),))


@torch.no_grad()
def soften_heads(
    head: HeadNetwork[HeadShape],
    steps: Iterable[Step],
    texts: Texts,
    ids: Tensor,
    parts_of: Callable[[int], tuple[str, ...]],
) -> list[float]:
    """Scale the logits of each fitted head so that its loss is lowest; return the factors.

    The fitted logits are too large: they are those of a mean state, and not a mean of
    distributions.

    Args:
        head: the heads, whose rows are those of `ids`.
        steps: what each head drafts, one after the other.
        texts: the texts that they draft.
        ids: `[draft]` ascending, with all tokens of the texts.
        parts_of: names of the matrices of a head that its logits are proportional to.
    """
    found: list[float] = []
    for number, step in enumerate(steps):
        labels = torch.searchsorted(ids, texts.targets(number)[step.valid])
        losses = {f: float(F.cross_entropy(step.logits * f, labels)) for f in FACTORS}
        found.append(min(losses, key=lambda factor: losses[factor]))
        for name in parts_of(number):
            head.part(name).mul_(found[-1])
    return found


def medusa_loss(head: MedusaModule, texts: Texts, ids: Tensor) -> Tensor:
    """Return the loss of a batch: the cross-entropy of each head's true token, all heads at once.

    Args:
        head: the heads, whose rows are those of `ids`.
        texts: the batch.
        ids: `[draft]` ascending, with all tokens of the batch.
    """
    total, weights = torch.zeros(()), 0.0
    for number, step in enumerate(medusa_steps(head, texts, head.config.heads)):
        weight = _DECAY**number
        labels = torch.searchsorted(ids, texts.targets(number)[step.valid])
        loss = F.cross_entropy(step.logits, labels, reduction="sum")
        total = total + weight * loss / max(len(labels), 1)
        weights += weight
    return total / weights


@torch.inference_mode()
def rank_accuracies(
    head: HeadNetwork[HeadShape],
    rotary: RotaryTable,
    texts: RecordedTexts,
    places: Sequence[TextPlace],
    ids: Tensor,
    heads: int,
) -> Float[Tensor, "heads ranks"]:
    """Return how often the token of each rank is right, for each head, on some texts.

    Args:
        head: the heads, whose rows are those of `ids`.
        rotary: their rotary embedding.
        texts: the recorded texts.
        places: those that count.
        ids: `[draft]` the draft vocabulary.
        heads: number of heads.
    """
    right, tried = torch.zeros(heads, RANKS), torch.zeros(heads, 1)
    for place in places:
        batch = texts.batch([place])
        for number, step in enumerate(unroll(head, rotary, batch, heads)):
            best = ids[step.logits.topk(min(RANKS, len(ids)), dim=-1).indices]
            hits = best == batch.targets(number)[step.valid][:, None]
            right[number, : hits.shape[1]] += hits.sum(0)
            tried[number] += len(hits)
    return right / tried.clamp(min=1)
