"""The loss of a head, and the acceptance of its chains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from outrider.models.heads.config import HeadKind, HeadShape
from outrider.models.heads.module import HeadNetwork
from outrider.models.llama.rope import RotaryTable
from outrider.training.heads.data import RecordedTexts, TextPlace
from outrider.training.heads.kinds.clover import DECAY
from outrider.training.heads.start import Teacher
from outrider.training.heads.unroll import Texts, unroll

_DECAY = 0.8
"""The weight of each step of a chain, relative to the step before (arXiv 2503.01840)."""
_STATES = {HeadKind.EAGLE1: 1.0, HeadKind.FSPAD: 1.0, HeadKind.CLOVER: 10.0}
_LOGITS = {HeadKind.EAGLE1: 0.1, HeadKind.FSPAD: 0.1}
"""Weights of the distance of states and of the cross-entropy (arXiv 2401.15077, 2408.00264); all
others are 0 and 1."""
_NOISE_LENGTH = 512
"""Length of a text for which the strength of noise is stated."""


def chain_loss(
    head: HeadNetwork[HeadShape],
    rotary: RotaryTable,
    texts: Texts,
    teacher: Teacher,
    ids: Tensor,
    steps: int,
    read: Texts | None = None,
) -> Tensor:
    """Return the loss of a batch; the head reads `read`, which may have noise, or the texts.

    The label of each row is the target's distribution over the draft vocabulary `ids`, which holds
    all tokens of the texts. A head that predicts states learns the final state of the next place
    first, by the smooth absolute difference; the logits have a tenth of its weight (EAGLE, Li et
    al. 2024, arXiv 2401.15077; Clover-2, Xiao et al. 2024, arXiv 2408.00264).
    """
    with torch.no_grad():
        final = texts.states[:, :, -1]
    kind, total, weights = head.config.kind, torch.zeros(()), 0.0
    distance, decay = _STATES.get(kind, 0.0), DECAY if kind is HeadKind.CLOVER else _DECAY
    for step, found in enumerate(unroll(head, rotary, read or texts, steps)):
        at = texts.at(step + 1)[..., None].expand(-1, -1, final.shape[-1])
        with torch.no_grad():
            true = final.gather(1, at)[found.valid]
            label = teacher.logits(true, ids).softmax(-1)
        loss = F.cross_entropy(found.logits, label, reduction="sum") * _LOGITS.get(kind, 1.0)
        if distance:
            off = F.smooth_l1_loss(found.outputs, true, reduction="sum") / true.shape[-1]
            loss = loss + distance * off
        total = total + decay**step * loss / max(len(found.logits), 1)
        weights += decay**step
    return total / weights


def with_noise(texts: Texts, noise: float, seed: int) -> Texts:
    """Return texts whose final states, as a head reads them, have uniform noise.

    Predicted states are not exact, so a head that predicts states learns on inexact ones. The noise
    is at most `noise / 2 * 512 / length` (arXiv 2401.15077). Labels must come from the texts
    without it.

    Args:
        texts: the texts.
        noise: the strength; 0 for none.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(texts.states[:, :, -1].shape, generator=generator) - 0.5
    states = texts.states.clone()
    states[:, :, -1] += drawn * noise * _NOISE_LENGTH / texts.tokens.shape[1]
    return replace(texts, states=states)


@torch.inference_mode()
def acceptance(
    head: HeadNetwork[HeadShape],
    rotary: RotaryTable,
    texts: RecordedTexts,
    places: Sequence[TextPlace],
    lm_head: Tensor,
    ids: Tensor,
) -> tuple[list[float], list[float]]:
    """Return what drafts of the best token achieve on recorded texts.

    Args:
        head: the head; it is left with the rows of `ids`.
        rotary: its rotary embedding.
        texts: recorded texts.
        places: those that are drafted.
        lm_head: `[vocab, width]` rows that score tokens.
        ids: the draft vocabulary.

    Returns:
        The share of right tokens in each step, among chains that were right so far; and the tokens
        of a round for chains of 1, 2, ... tokens.
    """
    counts = [counted(head, rotary, texts.batch([place]), lm_head, ids) for place in places]
    right, tried, rounds = (
        np.sum([getattr(one, name) for one in counts], axis=0)
        for name in ("right", "tried", "rounds")
    )
    tokens = sum(one.tokens for one in counts)
    return (right / np.maximum(tried, 1)).tolist(), (tokens / np.maximum(rounds, 1)).tolist()


@dataclass(frozen=True, slots=True)
class Counted:
    """What drafts of the best token achieve on one text.

    Attributes:
        right: `[steps]` right tokens of each step, among chains that were right so far.
        tried: `[steps]` number of these chains.
        rounds: `[steps]` rounds of decoding the text with chains of 1, 2, ... tokens.
        tokens: number of tokens of the answer.
    """

    right: NDArray[np.int64]
    tried: NDArray[np.int64]
    rounds: NDArray[np.int64]
    tokens: int


@torch.inference_mode()
def counted(
    head: HeadNetwork[HeadShape], rotary: RotaryTable, batch: Texts, lm_head: Tensor, ids: Tensor
) -> Counted:
    """Count what drafts of the best token achieve on one recorded text.

    The hint of each row can be drafted as well, although it may be outside the draft vocabulary.
    """
    runs = _runs(head, rotary, batch, lm_head, ids)
    steps = runs.shape[1]
    right, tried = np.zeros((2, steps), dtype=np.int64)
    alive = np.ones(len(runs), dtype=np.bool_)
    for step in range(steps):
        seen = alive & (np.arange(len(runs)) < len(runs) - step)
        alive = seen & runs[:, step]
        tried[step], right[step] = seen.sum(), alive.sum()
    rounds = np.array([_walk(runs, longest) for longest in range(1, steps + 1)])
    return Counted(right, tried, rounds, len(runs))


def _runs(
    head: HeadNetwork[HeadShape], rotary: RotaryTable, batch: Texts, lm_head: Tensor, ids: Tensor
) -> NDArray[np.bool_]:
    """Return `[starts, steps]`: whether the best token of each step is right, for one text."""
    steps = batch.hints.shape[-1]
    wider = torch.cat((ids, _others(head, batch, ids)))
    head.lm_head = lm_head[wider]
    runs = np.zeros((batch.rows.shape[1], steps), dtype=np.bool_)
    for step, drafted in enumerate(unroll(head, rotary, batch, steps)):
        logits, valid = drafted.logits, drafted.valid
        hints, levels = (
            one[..., step].gather(1, batch.rows)[valid] for one in (batch.hints, batch.levels)
        )
        others = (wider[len(ids) :] != hints[:, None]) | (levels == 0)[:, None]
        logits[:, len(ids) :].masked_fill_(others, -torch.inf)
        found = wider[logits.argmax(-1)] == batch.targets(step)[valid]
        runs[: len(found), step] = found.numpy()
    head.lm_head = lm_head[ids]
    return runs


def _others(head: HeadNetwork[HeadShape], batch: Texts, ids: Tensor) -> Tensor:
    """Return the hints that are not among `ids`, if the head drafts hints."""
    if head.config.kind is not HeadKind.HINTED:
        return ids[:0]
    found = batch.hints[batch.levels > 0].unique()
    return found[~torch.isin(found, ids)]


def _walk(runs: NDArray[np.bool_], longest: int) -> int:
    """Return the rounds of decoding a text with chains of `longest` tokens."""
    lengths = np.cumprod(runs[:, :longest], axis=1).sum(axis=1)
    at, rounds = 0, 0
    while at < len(runs):
        at += int(lengths[at]) + 1
        rounds += 1
    return rounds
