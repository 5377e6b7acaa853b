"""Classifier-free guidance: prefers tokens that the images, or the prompt, make more likely.

Kornblith et al., "Guiding image captioning models toward more specific captions" (arXiv
2307.16686). Their gamma is `scale` here.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.guidance.mix import Space
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Weighted
from outrider.guidance.recipe import Parts, Recipe
from outrider.guidance.source import Source, unconditional
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierFree(Recipe):
    """`null + scale * (seen - null)`.

    `seen` are the logits after the prompt, `null` those after a prompt that says less: the same
    with blank images; or the other prompt that is given with it (`Prompt.contrast`); or, for models
    that read text only, its last token, as in `transformers`. Both texts are read in one forward. A
    scale of 1 gives the model's own rows bit for bit, 0 those of the other prompt. In the paper,
    captions with a scale above 1 name more of what is there and are less fluent; those of
    `tiny-vision` name less (docs/negative-results.md). Prompts without images, for models that
    read images, are read once and are not guided.

    Attributes:
        scale: strength of the guidance; finite and at least 0.
    """

    name: ClassVar[str] = "classifier-free"
    readings: ClassVar[int] = 2
    reads_contrast: ClassVar[bool] = True

    scale: float = 1.5

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def build(self, parts: Parts) -> LanguageModel:
        """Return the guided target."""
        return guide(parts.target, self.scale)


def guide(model: LanguageModel, scale: float) -> LanguageModel:
    """Guide `model`; return it unchanged if the scale is 1. Raises `OptionError`."""
    check_scale(scale)
    return model if scale == 1.0 else guided(model, scale)


def guided(model: LanguageModel, scale: float, *, space: Space = "logits") -> Mixed:
    """Guide `model`; `space` are the values that are mixed.

    Raises:
        OptionError: the scale is out of range.
    """
    check_scale(scale)
    sources = Source(model=model), Source(model=model, view=unconditional(model))
    return Mixed(sources, Weighted(weights=(scale, 1.0 - scale), space=space), float(scale))


def check_scale(scale: float) -> None:
    """Raise `OptionError` unless `scale` is a finite number of at least 0."""
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or not math.isfinite(scale) or scale < 0.0:
        raise OptionError(
            f"guidance is {scale!r}",
            hint="Give a number of at least 0 (1 is none, 1.5 to 3 follow the image or the prompt "
            "more closely), or a method such as dola",
        )


METHOD = Method(
    name="classifier-free",
    cls=ClassifierFree,
    summary="follows the images, or the prompt, more closely: --guidance 1.5",
    paper=Paper("classifier-free guidance for captions", "2307.16686"),
    promise=Exactness.LOSSY,
    memory="a second cache of each text",
)
