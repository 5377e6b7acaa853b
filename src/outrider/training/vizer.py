"""ViZer: a captioner that improves from images alone (arXiv 2510.12931).

Phase A trains a mapper from the hidden states of captions to the features of their images, the
model frozen. Phase B trains LoRA on the model, the mapper frozen, so that what it says of an image
lies nearer to what it sees of it. Captions of phase B are the model's own; no label is read.

Two ways to go wrong are watched. A mapper may answer the mean image to everything: features are
centred, and in-batch retrieval is reported. And LoRA may copy what it sees into hidden states
without better words: so captions of held-out images are read again as mere text, by the base, and
a second mapper, which has only ever read text, says how well they tell of their images. That score
decides when to stop and which adapter is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outrider.training.mapper import (
    Mapper,
    Vectors,
    mapper_figures,
    train_mapper,
)
from outrider.training.subject import Sights, Subject
from outrider.training.vizer_config import VizerConfig
from outrider.vision.diversity import distinct
from outrider.vision.words import words

_WEIGHT_DECAY = 0.01
_WARM_UP = 0.03
_CLIP = 1.0
_READ_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Mappers:
    """What phase A leaves.

    Attributes:
        guide: reads captions as phase B does; its loss is what LoRA is trained by.
        judge: reads captions as text alone; its score decides when to stop.
        figures: of both, on held-out images.
    """

    guide: Mapper
    judge: Mapper
    figures: dict[str, dict[str, float]]


# -- phase A ------------------------------------------------------------------------------------


@torch.no_grad()
def collect(
    subject: Subject, images: Sequence[Any], captions: Sequence[str] | None, first: int
) -> tuple[Vectors, Vectors]:
    """What the guide and the judge are to learn from some images: numbers `first` and after.

    Captions that are given are read as text by both (ViZer_GT). The model's own are read with
    their image by the guide (ViZer_G), and as text by the judge.
    """
    config = subject.config
    sights = subject.look(images)
    if captions is None:
        ids = subject.write(
            sights.prompts, temperature=config.mapper_temperature, seed=_seed(config, first)
        )
        seen = subject.read(sights.prompts, ids).states
    else:
        ids = subject.encode(captions)
        seen = None
    read = read_as_text(subject, ids)
    return Vectors(read if seen is None else seen, sights.features), Vectors(read, sights.features)


@torch.no_grad()
def read_as_text(subject: Subject, captions: Sequence[Sequence[int]]) -> Tensor:
    """`[n, hidden]` what the base makes of captions when it sees no image."""
    question = subject.question()
    with subject.as_base():
        return subject.read([question] * len(captions), captions).states


def fit_mappers(
    data: tuple[Vectors, Vectors], held_out: tuple[Vectors, Vectors], config: VizerConfig
) -> Mappers:
    """Phase A over vectors that were collected."""
    if config.shuffle:
        data = shuffled(data[0], config), shuffled(data[1], config)
    guide, guide_figures = train_mapper(data[0], config, held_out[0])
    judge, judge_figures = train_mapper(data[1], config, held_out[1])
    return Mappers(guide, judge, {"guide": guide_figures, "judge": judge_figures})


def shuffled(vectors: Vectors, config: VizerConfig) -> Vectors:
    """Each caption with the features of another image: nothing can be learned from these."""
    turn = torch.Generator().manual_seed(config.seed + 1)
    order = torch.randperm(len(vectors), generator=turn).to(vectors.features.device)
    return replace(vectors, features=vectors.features[order])


# -- phase B ------------------------------------------------------------------------------------


def learning_rate(config: VizerConfig, step: int, steps: int) -> float:
    """Warmed up over 3 % of the steps, then a cosine to 0."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return config.learning_rate * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def make_optimizer(subject: Subject) -> torch.optim.Optimizer:
    """AdamW over LoRA alone."""
    return torch.optim.AdamW(list(subject.trained.values()), lr=0.0, weight_decay=_WEIGHT_DECAY)


def adapt_step(
    subject: Subject,
    guide: Mapper,
    optimizer: torch.optim.Optimizer,
    images: Sequence[Any],
    captions: Sequence[str] | None,
    *,
    step: int,
    steps: int,
) -> dict[str, float]:
    """One step of phase B over some images; `captions` are for the method `labels` alone."""
    config = subject.config
    sights = subject.look(images)
    subject.adapted.eval()
    if captions is None:
        ids = subject.write(
            sights.prompts, temperature=config.temperature, seed=_seed(config, step)
        )
    else:
        ids = subject.encode(captions)
    torch.manual_seed(_seed(config, step))  # of LoRA's dropout: a resumed run draws the same
    subject.adapted.train()
    loss, figures = (
        _alignment(subject, guide, sights, ids)
        if captions is None
        else _likelihood(subject, sights, ids)
    )
    loss.backward()
    subject.adapted.eval()
    rate = learning_rate(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = nn.utils.clip_grad_norm_(list(subject.trained.values()), _CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**figures, "grad_norm": float(norm), "learning_rate": rate}


def _alignment(
    subject: Subject, guide: Mapper, sights: Sights, ids: Sequence[Sequence[int]]
) -> tuple[Tensor, dict[str, float]]:
    """The guide's loss, and how far LoRA may lead away from the base."""
    config = subject.config
    features = sights.features
    if config.shuffle:
        features = features.roll(1, dims=0)
    said = subject.read(sights.prompts, ids)
    align = guide.loss(said.states, features, config)
    figures = {"align": float(align.detach())}
    if not config.kappa:
        return align, figures
    with torch.no_grad(), subject.as_base():
        base = subject.read(sights.prompts, ids).logits
    drift = F.kl_div(
        base.log_softmax(dim=-1),
        said.logits.log_softmax(dim=-1),
        log_target=True,
        reduction="batchmean",
    )
    figures["drift"] = float(drift.detach())
    return align + config.kappa * drift, figures


def _likelihood(
    subject: Subject, sights: Sights, ids: Sequence[Sequence[int]]
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of given captions and their ends."""
    said = subject.read(sights.prompts, ids)
    end = max(subject.ends)
    labels = torch.tensor([t for row in ids for t in ((*row, end) if row else (end, end))])
    loss = F.cross_entropy(said.logits, labels.to(said.logits.device))
    return loss, {"loss": float(loss.detach())}


# -- held-out images ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Held-out captions after some steps, and what they are worth.

    Attributes:
        score: mean cosine of the judge's reading of the text with the image; higher is better.
        figures: the same with retrieval, length, diversity and the share that has changed.
        captions: the texts.
    """

    score: float
    figures: dict[str, float]
    captions: list[str]


@torch.no_grad()
def look_again(
    subject: Subject, judge: Mapper, images: Sequence[Any], base: Sequence[str] | None
) -> Look:
    """Write greedy captions of held-out images and read them as text."""
    ids: list[list[int]] = []
    states, features = [], []
    for start in range(0, len(images), _READ_AT_ONCE):
        sights = subject.look(images[start : start + _READ_AT_ONCE])
        part = subject.write(sights.prompts)
        ids += part
        states.append(read_as_text(subject, part))
        features.append(sights.features)
    found = mapper_figures(judge, Vectors(torch.cat(states), torch.cat(features)), subject.config)
    texts = subject.decode(ids)
    changed = sum(a != b for a, b in zip(texts, base or texts, strict=True)) / len(texts)
    spoken = [tuple(words(text)) for text in texts]
    figures = {
        "score": found["cosine"],
        "retrieval": found["retrieval"],
        "changed": changed,
        "words": sum(map(len, spoken)) / len(spoken),
        "distinct_2": distinct(spoken, 2),
    }
    return Look(found["cosine"], figures, texts)


def _seed(config: VizerConfig, step: int) -> int:
    return config.seed * 1_000_003 + step
