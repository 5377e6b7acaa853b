"""The configuration of ViZer: how a captioner learns from images alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from outrider.core.checks import ZERO_OR_MORE, Range, check_ranges
from outrider.core.errors import OptionError, nearest

METHODS = {
    "g": "the mapper learns from captions that the model writes itself: no label at all",
    "gt": "the mapper learns from given captions; the model is still trained on images alone",
    "labels": "the model is trained on given captions: what labels would bring, to compare with",
}
LOSSES = ("cosine", "infonce")
WAYS = {
    "states": "the paper's: the gradient of the mapper's loss goes through hidden states",
    "words": "the mapper reads samples as mere text; those it finds nearer to the image than the "
    "others become likelier",
}

_POSITIVE = Range(0, above=True, hint="Give more than 0")

_RANGES: Mapping[str, Range] = {
    "samples": Range(2, hint="Compare 2 or more"),
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
"""Checked after `_RANGES`, which has a hint of its own for 0 and less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VizerConfig:
    """Settings of both phases; the defaults are the specification's where it names any.

    Attributes:
        method: one of `METHODS`.
        question: what the model is asked about each image.
        through: how phase B learns, one of `WAYS`.
        loss: `cosine` is the paper's, over centred features; `infonce` adds the other images of the
            batch as negatives, so that a constant answer does not pay.
        centre: subtract the mean of the image features; False is the paper's loss to the letter.
        mapper_images: images of phase A.
        mapper_width: of the mapper's hidden layer.
        mapper_epochs: passes over the vectors of phase A; they are computed once.
        mapper_learning_rate: of AdamW in phase A.
        mapper_temperature: at which the model writes captions in phase A (0: greedy); None: 0, and
            1 through words, where the mapper must hear more than habits.
        images: images of phase B; 0 takes all that are given.
        epochs: passes over them.
        learning_rate: of AdamW on LoRA; warmed up over 3 % and then a cosine to 0.
        batch: images of a step.
        rank: of LoRA, on the query, key, value and output projections of the text stack.
        alpha: of LoRA: updates are scaled by alpha / rank.
        dropout: of LoRA's inputs.
        temperature: at which captions are written in phase B; through words 0 means 1.
        samples: captions of an image that are compared, through words.
        kappa: weight of KL(adapted || base) at the caption's tokens; None: 0.05, and 3 through
            words, where a small weight loses words that the mapper does not protect.
        temperature_scale: of `infonce`.
        longest: tokens of a caption.
        held_out: images that are never trained on; captions of these decide when to stop.
        evaluate_every: steps between two looks at them.
        patience: looks without a better score before training ends.
        shuffle: pair each image with the features of another: the control that must not help.
        seed: of everything that is drawn.
        device: where to train; `auto` takes the first GPU.
        checkpoint_minutes: between two checkpoints.
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
            raise OptionError(f"unknown way {self.through!r}", hint=nearest(self.through, WAYS))
        check_ranges(self, _RANGES)
        _HELD_OUT.check("held_out", self.held_out)
        if self.shuffle and self.batch < 2:
            raise OptionError("shuffle with a batch of 1 has nothing to shuffle", hint="Give 2")
        if not self.question.strip():
            raise OptionError("the question is empty", hint="Ask for a description")

    @property
    def kl_weight(self) -> float:
        """`kappa`, or what stands for it."""
        return (3.0 if self.through == "words" else 0.05) if self.kappa is None else self.kappa

    @property
    def mapper_sampling(self) -> float:
        """`mapper_temperature`, or what stands for it."""
        default = 1.0 if self.through == "words" else 0.0
        return default if self.mapper_temperature is None else self.mapper_temperature
