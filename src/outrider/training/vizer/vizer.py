"""ViZer: improves a captioner with images alone (arXiv 2510.12931).

Phase A trains a mapper from the hidden states of captions to the features of their images; the
model is frozen. Phase B trains LoRA on the model with a frozen mapper, so that the mapped hidden
states of a caption get closer to the features of its image. Captions of phase B are the model's
own; no label is read.

Through words (`VizerConfig.through`), the mapper reads captions as plain text, and training
increases the probability of samples that it maps closer to their image. This is not in the paper,
but on the captioner that ships with Outrider only this way works (docs/vizer.md).

Two failures are monitored. First, a mapper may output the mean image for everything: therefore
features are centered, and in-batch retrieval is reported. Second, LoRA may copy image features into
hidden states without better captions: therefore the base reads captions of held-out images again as
plain text, and a second mapper, trained only on text, scores how well they describe their images.
This score decides when to stop and which adapter is kept.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outrider.captioning.metrics.diversity import distinct
from outrider.captioning.metrics.words import words
from outrider.core.errors import LogitsError, OptionError
from outrider.core.types import Prompt
from outrider.training.vizer.captioner import CaptionStates, ImageBatch, TrainableCaptioner
from outrider.training.vizer.config import VizerConfig
from outrider.training.vizer.mapper import Mapper, Vectors, mapper_figures, train_mapper

_WEIGHT_DECAY = 0.01
_WARM_UP = 0.03
_CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Mappers:
    """The results of phase A.

    Attributes:
        guide: mapper for captions as read in phase B; its loss trains LoRA.
        judge: mapper for captions read as plain text; its score decides when to stop.
        figures: metrics of both on held-out images.
    """

    guide: Mapper
    judge: Mapper
    figures: dict[str, dict[str, float]]


# -- phase A ------------------------------------------------------------------------------------


@torch.no_grad()
def collect(
    captioner: TrainableCaptioner,
    image_batch: ImageBatch,
    captions: Sequence[str] | None,
    first: int,
) -> tuple[Vectors, Vectors]:
    """Collect training data for guide and judge from images with numbers from `first` on.

    Given captions are read as text for both (ViZer_GT). The model's own captions are read with
    their image for the guide (ViZer_G), and as text for the judge.
    """
    config = captioner.config
    if captions is None:
        ids = captioner.write(
            image_batch.prompts, temperature=config.mapper_sampling, seed=_seed(config, first)
        )
        seen = captioner.read(image_batch.prompts, ids).states
    else:
        ids = captioner.encode(captions)
        seen = None
    read = read_as_text(captioner, ids)
    return Vectors(read if seen is None else seen, image_batch.features), Vectors(
        read, image_batch.features
    )


@torch.no_grad()
def read_as_text(captioner: TrainableCaptioner, captions: Sequence[Sequence[int]]) -> Tensor:
    """Return `[n, hidden]` hidden states of captions that the base reads without an image."""
    question = captioner.question
    with captioner.as_base():
        return captioner.read([question] * len(captions), captions).states


def fit_mappers(
    data: tuple[Vectors, Vectors], held_out: tuple[Vectors, Vectors], config: VizerConfig
) -> Mappers:
    """Fit both mappers on collected vectors."""
    if config.shuffle:
        data = shuffled(data[0], config), shuffled(data[1], config)
    guide, guide_figures = train_mapper(data[0], config, held_out[0])
    judge, judge_figures = train_mapper(data[1], config, held_out[1])
    return Mappers(guide, judge, {"guide": guide_figures, "judge": judge_figures})


def shuffled(vectors: Vectors, config: VizerConfig) -> Vectors:
    """Pair each caption with the features of another image, as a control: nothing can be
    learned.
    """
    turn = torch.Generator().manual_seed(config.seed + 1)
    order = torch.randperm(len(vectors), generator=turn).to(vectors.features.device)
    return replace(vectors, features=vectors.features[order])


# -- phase B ------------------------------------------------------------------------------------


def learning_rate(config: VizerConfig, step: int, steps: int) -> float:
    """Return the learning rate: warm-up over 3 % of the steps, then a cosine to 0."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return config.learning_rate * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def make_optimizer(captioner: TrainableCaptioner) -> torch.optim.Optimizer:
    """Build AdamW for the parameters of LoRA."""
    return torch.optim.AdamW(list(captioner.trained.values()), lr=0.0, weight_decay=_WEIGHT_DECAY)


def adapt_step(
    captioner: TrainableCaptioner,
    mappers: Mappers,
    optimizer: torch.optim.Optimizer,
    image_batch: ImageBatch,
    captions: Sequence[str] | None,
    *,
    step: int,
    steps: int,
) -> dict[str, float]:
    """Run one step of phase B over some images; only the method `labels` uses `captions`.

    Raises:
        LogitsError: the loss or its gradient is not finite. No weight is changed.
    """
    config = captioner.config
    if config.shuffle:
        image_batch = replace(image_batch, features=image_batch.features.roll(1, dims=0))
    if captions is not None:
        loss, figures = _likelihood(captioner, image_batch, captioner.encode(captions), step)
    elif config.through == "words":
        loss, figures = _preference(captioner, mappers.judge, image_batch, step)
    else:
        loss, figures = _alignment(captioner, mappers.guide, image_batch, step)
    loss.backward()
    rate = learning_rate(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = nn.utils.clip_grad_norm_(list(captioner.trained.values()), _CLIP)
    if not (loss.isfinite() and norm.isfinite()):
        raise LogitsError(
            f"the loss of step {step} is {float(loss.detach()):g}, its gradient {float(norm):g}",
            hint="Give a smaller --learning-rate",
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**figures, "grad_norm": float(norm), "learning_rate": rate}


def _alignment(
    captioner: TrainableCaptioner, guide: Mapper, image_batch: ImageBatch, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Return the guide's loss over hidden states, as in the paper: 1 - cos(F, h(H))."""
    config = captioner.config
    ids = captioner.write(
        image_batch.prompts, temperature=config.temperature, seed=_seed(config, step)
    )
    caption_states = _read_in_training(captioner, image_batch.prompts, ids, step)
    align = guide.loss(caption_states.states, image_batch.features, config)
    if not config.kl_weight:  # then logits of the whole vocabulary are not needed
        return align, {"align": float(align.detach()), "drift": 0.0}
    loss, drift = _held(
        captioner, align, captioner.logits(caption_states), image_batch.prompts, ids
    )
    return loss, {"align": float(align.detach()), "drift": drift}


def _preference(
    captioner: TrainableCaptioner, judge: Mapper, image_batch: ImageBatch, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Return a loss that favors samples that the judge, reading plain text, maps closer to the
    image.

    The gradient of the expected score by REINFORCE, each sample against the mean of the other
    samples of its image (leave one out; Kool et al. 2019). Only the words of a caption affect the
    score.
    """
    config, count = captioner.config, captioner.config.samples
    prompts = [prompt for prompt in image_batch.prompts for _ in range(count)]
    ids = captioner.write(prompts, temperature=config.temperature or 1.0, seed=_seed(config, step))
    with torch.no_grad():
        told = judge(read_as_text(captioner, ids))
        scores = _scores(told, judge.aims(image_batch.features), config).view(-1, count)
    others = (scores.sum(dim=1, keepdim=True) - scores) / (count - 1)
    better = (scores - others) / scores.std().clamp_min(1e-6)
    caption_states = _read_in_training(captioner, prompts, ids, step)
    logits = captioner.logits(caption_states)
    likely = _log_likelihoods(captioner, logits, ids, config.temperature or 1.0)
    align = -(better.flatten() * likely).mean()
    loss, drift = _held(captioner, align, logits, prompts, ids)
    return loss, {"align": 1 - float(scores.mean()), "drift": drift}


def _scores(told: Tensor, seen: Tensor, config: VizerConfig) -> Tensor:
    """Score the similarity of each caption and its image, `[images * samples]`.

    With `infonce`, the score is the log-probability of the image among the images of the batch.
    """
    own = torch.arange(len(seen), device=seen.device).repeat_interleave(config.samples)
    near = told @ seen.T
    if config.loss == "infonce":
        near = (near / config.temperature_scale).log_softmax(dim=-1)
    return near.gather(1, own[:, None])[:, 0]


def _likelihood(
    captioner: TrainableCaptioner, image_batch: ImageBatch, ids: Sequence[Sequence[int]], step: int
) -> tuple[Tensor, dict[str, float]]:
    """Return the cross-entropy of given captions and their ends."""
    caption_states = _read_in_training(captioner, image_batch.prompts, ids, step)
    tokens = sum(max(len(row), 1) + _is_whole(captioner, row) for row in ids)
    loss = -_log_likelihoods(captioner, captioner.logits(caption_states), ids, 1.0).sum() / tokens
    return loss, {"loss": float(loss.detach())}


def _read_in_training(
    captioner: TrainableCaptioner,
    prompts: Sequence[Prompt],
    ids: Sequence[Sequence[int]],
    step: int,
) -> CaptionStates:
    """Run `read` with LoRA's dropout, seeded by the step, so that a resumed run is identical."""
    torch.manual_seed(_seed(captioner.config, step))
    with captioner.dropping_out():
        return captioner.read(prompts, ids)


def _log_likelihoods(
    captioner: TrainableCaptioner, logits: Tensor, ids: Sequence[Sequence[int]], temperature: float
) -> Tensor:
    """Return `[n]` log-likelihoods of captions with their ends; captions cut to the longest length
    have no end.
    """
    end = captioner.end
    rows = [[*(row or [end]), end] for row in ids]
    labels = torch.tensor([token for row in rows for token in row], device=logits.device)
    probs = (logits / temperature).log_softmax(dim=-1)
    each = probs.gather(1, labels[:, None])[:, 0].split([len(row) for row in rows])
    whole = [_is_whole(captioner, row) for row in ids]
    return torch.stack([p.sum() if w else p[:-1].sum() for p, w in zip(each, whole, strict=True)])


def _is_whole(captioner: TrainableCaptioner, ids: Sequence[int]) -> bool:
    return len(ids) < captioner.config.longest


def _held(
    captioner: TrainableCaptioner,
    loss: Tensor,
    logits: Tensor,
    prompts: Sequence[Prompt],
    ids: Sequence[Sequence[int]],
) -> tuple[Tensor, float]:
    """Add the penalty for a change of the base's distribution to `loss`: kappa KL(adapted ||
    base).
    """
    if not captioner.config.kl_weight:
        return loss, 0.0
    with torch.no_grad(), captioner.as_base():
        base = captioner.logits(captioner.read(prompts, ids))
    drift = F.kl_div(  # its arguments are in reverse order
        base.log_softmax(dim=-1),
        logits.log_softmax(dim=-1),
        log_target=True,
        reduction="batchmean",
    )
    return loss + captioner.config.kl_weight * drift, float(drift.detach())


# -- held-out images ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Captions of held-out images after some steps, and their scores.

    Attributes:
        score: mean cosine of the text, mapped by the judge, and the image; higher is better.
        figures: the score with retrieval, length, diversity and the share of changed captions.
        captions: texts of the captions.
    """

    score: float
    figures: dict[str, float]
    captions: list[str]


@torch.no_grad()
def evaluate_again(
    captioner: TrainableCaptioner,
    judge: Mapper,
    held_out: Iterable[ImageBatch],
    base: Sequence[str] | None,
) -> Evaluation:
    """Write greedy captions of held-out images and read them as text.

    Raises:
        OptionError: the number of images differs from the number of captions of `base`.
    """
    ids: list[list[int]] = []
    states, features = [], []
    for image_batch in held_out:
        part = captioner.write(image_batch.prompts)
        ids += part
        states.append(read_as_text(captioner, part))
        features.append(image_batch.features)
    found = mapper_figures(judge, Vectors(torch.cat(states), torch.cat(features)), captioner.config)
    texts = captioner.decode(ids)
    if base is not None and len(base) != len(texts):
        raise OptionError(
            f"{len(texts)} held-out images can be used; at the start of the run there were "
            f"{len(base)}",
            hint="Restore the images, or start a run in another folder",
        )
    changed = sum(a != b for a, b in zip(texts, base or texts, strict=True)) / len(texts)
    spoken = [tuple(words(text)) for text in texts]
    figures = {
        "score": found["cosine"],
        "retrieval": found["retrieval"],
        "changed": changed,
        "words": sum(map(len, spoken)) / len(spoken),
        "distinct_2": distinct(spoken, 2),
    }
    return Evaluation(found["cosine"], figures, texts)


def _seed(config: VizerConfig, step: int) -> int:
    return config.seed * 1_000_003 + step
