"""The configuration of ViZer, which trains a captioner on images alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from outrider.core.checks import ZERO_OR_MORE, Range, check_ranges
from outrider.core.errors import OptionError, nearest

METHODS = {
    "g": "the mapper learns from captions that the model writes itself, without labels",
    "gt": "the mapper learns from given captions; the model is still trained on images only",
    "labels": "the model is trained on given captions, for comparison",
}
LOSSES = ("cosine", "infonce")
WAYS = {
    "states": "as in the paper: the gradient of the mapper's loss passes through hidden states",
    "words": "the mapper reads samples as plain text; training raises the probability of those "
    "nearest to the image",
}

_POSITIVE = Range(0, above=True, hint="Give more than 0")

_RANGES: Mapping[str, Range] = {
    "samples": Range(2, hint="Give 2 or more"),
    "mapper_images": _POSITIVE,
    "mapper_width": _POSITIVE,
    "mapper_epochs": _POSITIVE,
    "mapper_learning_rate": _POSITIVE,
    "epochs": _POSITIVE,
    "learning_rate": _POSITIVE,
    "batch": _POSITIVE,
    "rank": _POSITIVE,
    "alpha": _POSITIVE,
    "longest": _POSITIVE,
    "held_out": _POSITIVE,
    "patience": _POSITIVE,
    "evaluate_every": _POSITIVE,
    "temperature_scale": _POSITIVE,
    "images": ZERO_OR_MORE,
    "kappa": replace(ZERO_OR_MORE, optional=True),
    "temperature": ZERO_OR_MORE,
    "mapper_temperature": replace(ZERO_OR_MORE, optional=True),
    "dropout": Range(0, 1, below=True, hint="Give a share below 1"),
}

_HELD_OUT = Range(2, hint="Hold out at least 2: the score compares them")
"""Checked after `_RANGES`, which has its own hint for values up to 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VizerConfig:
    """Settings of both phases; defaults are those of the specification if it gives any.

    Attributes:
        method: one of `METHODS`.
        question: the question for each image.
        through: the training signal of phase B, one of `WAYS`.
        loss: `cosine` is that of the paper, over centered features; `infonce` adds the other images
            of the batch as negatives, so that a constant output has a high loss.
        centre: whether to subtract the mean of the image features; False is exactly the loss of the
            paper.
        mapper_images: number of images in phase A.
        mapper_width: size of the mapper's hidden layer.
        mapper_epochs: passes over the vectors of phase A, which are computed once.
        mapper_learning_rate: learning rate of AdamW in phase A.
        mapper_temperature: temperature of captions in phase A (0: greedy); None is 0, or 1 through
            words, where the mapper needs varied captions.
        images: number of images in phase B; 0 uses all.
        epochs: passes over the images of phase B.
        learning_rate: learning rate of AdamW on LoRA; a warm-up over 3 % of the steps, then a
            cosine to 0.
        batch: number of images in a step.
        rank: rank of LoRA, on the query, key, value and output projections of the text stack.
        alpha: scale of LoRA: updates are scaled by alpha / rank.
        dropout: dropout of LoRA's inputs.
        temperature: temperature of captions in phase B; through words 0 means 1.
        samples: number of captions of an image that are compared, through words.
        kappa: weight of KL(adapted || base) at the caption's tokens; None is 0.05, or 3 through
            words, where a small KL weight loses words that do not affect the mapper's score.
        temperature_scale: temperature of `infonce`.
        longest: largest number of tokens of a caption.
        held_out: number of images that are never trained on; their captions decide when to stop.
        evaluate_every: steps between two evaluations.
        patience: evaluations without a better score before training ends.
        shuffle: whether to pair each image with the features of another one: a control experiment
            that must not improve captions.
        seed: seed of all random numbers.
        device: device for training; `auto` uses the first GPU.
        checkpoint_minutes: minutes between two checkpoints.
    """

    method: str = "g"
    question: str = "Describe the image in one sentence."
    through: str = "states"
    loss: str = "cosine"
    centre: bool = True
    mapper_images: int = 10_000
    mapper_width: int = 256
    mapper_epochs: int = 1
    mapper_learning_rate: float = 1e-3
    mapper_temperature: float | None = None
    images: int = 0
    epochs: int = 1
    learning_rate: float = 2e-5
    batch: int = 16
    rank: int = 32
    alpha: int = 64
    dropout: float = 0.05
    temperature: float = 0.0
    samples: int = 4
    kappa: float | None = None
    temperature_scale: float = 0.07
    longest: int = 32
    held_out: int = 256
    evaluate_every: int = 50
    patience: int = 4
    shuffle: bool = False
    seed: int = 1
    device: str = "auto"
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(f"unknown method {self.method!r}", hint=nearest(self.method, METHODS))
        if self.loss not in LOSSES:
            raise OptionError(f"unknown loss {self.loss!r}", hint=nearest(self.loss, LOSSES))
        if self.through not in WAYS:
            raise OptionError(f"unknown through {self.through!r}", hint=nearest(self.through, WAYS))
        check_ranges(self, _RANGES)
        _HELD_OUT.check("held_out", self.held_out)
        if self.shuffle and self.batch < 2:
            raise OptionError("shuffle needs a batch of at least 2", hint="Give a larger batch")
        if not self.question.strip():
            raise OptionError(
                "the question is empty", hint="Give a question that asks for a description"
            )

    @property
    def kl_weight(self) -> float:
        """The value of `kappa`, or its default."""
        return (3.0 if self.through == "words" else 0.05) if self.kappa is None else self.kappa

    @property
    def mapper_sampling(self) -> float:
        """The value of `mapper_temperature`, or its default."""
        default = 1.0 if self.through == "words" else 0.0
        return default if self.mapper_temperature is None else self.mapper_temperature
