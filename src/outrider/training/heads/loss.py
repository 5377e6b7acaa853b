"""The loss of a head, and the acceptance of its chains."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from outrider.models.heads.config import HeadKind, HeadShape
from outrider.models.heads.module import HeadNetwork
from outrider.models.llama.rope import RotaryTable
from outrider.training.heads.data import RecordedTexts, TextPlace
from outrider.training.heads.start import Teacher
from outrider.training.heads.unroll import Texts, unroll

_DECAY = 0.8
"""The weight of each step of a chain, relative to the step before (arXiv 2503.01840)."""


def draft_with(head: HeadNetwork[HeadShape], ids: Tensor, teacher: Teacher) -> None:
    """Make `head` draft these tokens, with the rows of its target's head."""
    head.lm_head = teacher.lm_head[ids]


def chain_loss(
    head: HeadNetwork[HeadShape],
    rotary: RotaryTable,
    texts: Texts,
    teacher: Teacher,
    ids: Tensor,
    steps: int,
) -> Tensor:
    """Return the loss of a batch.

    The label of each row is the target's distribution over the draft vocabulary `ids`, which holds
    all tokens of the texts.
    """
    with torch.no_grad():
        final = texts.states[:, :, -1]
    total, weights = torch.zeros(()), 0.0
    for step, (logits, valid) in enumerate(unroll(head, rotary, texts, steps)):
        at = texts.at(step + 1)[..., None].expand(-1, -1, final.shape[-1])
        with torch.no_grad():
            label = teacher.logits(final.gather(1, at)[valid], ids).softmax(-1)
        loss = F.cross_entropy(logits, label, reduction="sum")
        total = total + _DECAY**step * loss / max(len(logits), 1)
        weights += _DECAY**step
    return total / weights


@torch.inference_mode()
def acceptance(
    head: HeadNetwork[HeadShape],
    rotary: RotaryTable,
    texts: RecordedTexts,
    places: Sequence[TextPlace],
    teacher: Teacher,
    ids: Tensor,
) -> tuple[list[float], list[float]]:
    """Return what drafts of the best token achieve on recorded texts.

    The hint of each row can be drafted as well, although it may be outside the draft vocabulary.

    Returns:
        The share of right tokens in each step, among chains that were right so far; and the tokens
        of a round for chains of 1, 2, ... tokens.
    """
    steps = texts.steps
    right = np.zeros(steps)
    tried = np.zeros(steps)
    rounds = np.zeros(steps)
    tokens = np.zeros(steps)
    for place in places:
        runs = _runs(head, rotary, texts.batch([place]), teacher, ids)
        alive = np.ones(len(runs), dtype=np.bool_)
        for step in range(steps):
            seen = alive & (np.arange(len(runs)) < len(runs) - step)
            alive = seen & runs[:, step]
            tried[step] += seen.sum()
            right[step] += alive.sum()
        for longest in range(1, steps + 1):
            count, made = _walk(runs, longest)
            rounds[longest - 1] += count
            tokens[longest - 1] += made
    return (right / np.maximum(tried, 1)).tolist(), (tokens / np.maximum(rounds, 1)).tolist()


def _runs(
    head: HeadNetwork[HeadShape], rotary: RotaryTable, batch: Texts, teacher: Teacher, ids: Tensor
) -> NDArray[np.bool_]:
    """Return `[starts, steps]`: whether the best token of each step is right, for one text."""
    steps = batch.hints.shape[-1]
    wider = torch.cat((ids, _others(head, batch, ids)))
    draft_with(head, wider, teacher)
    runs = np.zeros((batch.rows.shape[1], steps), dtype=np.bool_)
    for step, (logits, valid) in enumerate(unroll(head, rotary, batch, steps)):
        hints, levels = (
            one[..., step].gather(1, batch.rows)[valid] for one in (batch.hints, batch.levels)
        )
        others = (wider[len(ids) :] != hints[:, None]) | (levels == 0)[:, None]
        logits[:, len(ids) :].masked_fill_(others, -torch.inf)
        found = wider[logits.argmax(-1)] == batch.targets(step)[valid]
        runs[: len(found), step] = found.numpy()
    draft_with(head, ids, teacher)
    return runs


def _others(head: HeadNetwork[HeadShape], batch: Texts, ids: Tensor) -> Tensor:
    """Return the hints that are not among `ids`, if the head drafts hints."""
    if head.config.kind is not HeadKind.HINTED:
        return ids[:0]
    found = batch.hints[batch.levels > 0].unique()
    return found[~torch.isin(found, ids)]


def _walk(runs: NDArray[np.bool_], longest: int) -> tuple[int, int]:
    """Return rounds and tokens of decoding a text with chains of `longest` tokens."""
    lengths = np.cumprod(runs[:, :longest], axis=1).sum(axis=1)
    at, rounds = 0, 0
    while at < len(runs):
        at += int(lengths[at]) + 1
        rounds += 1
    return rounds, len(runs)
