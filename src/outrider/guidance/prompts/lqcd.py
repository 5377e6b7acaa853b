"""LQCD: subtracts what the model says to a leading question from what it says to the neutral one.

Zhao et al., "Towards Analyzing and Mitigating Sycophancy in Large Vision-Language Models" (arXiv
2408.11261).
"""

from dataclasses import dataclass
from typing import ClassVar

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Weighted
from outrider.guidance.prompts.leading import neutralised, with_cue
from outrider.guidance.recipe import PLAUSIBLE, Parts, Recipe
from outrider.guidance.source import Source, contrast
from outrider.inputs.given import GivenPrompt
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper

_STRENGTH = Range(0.0, below=True, hint="Give a number of at least 0, such as 1")
_KINDS = ("neutral", "leading")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lqcd(Recipe):
    """`(1 + strength) * neutral - strength * leading`, in logits, among plausible tokens.

    A leading question holds an opinion of the user, which models tend to repeat. The other question
    is given with each request (`Generator.prompt(..., contrast=...)`) or made by rules of this
    project: the paper does not say how to lead from a neutral question, and uses a language model
    to strip a leading one. Both questions have the same images, which are encoded once.

    Attributes:
        strength: weight of the difference, the paper's alpha; 0 is the neutral question alone.
        alpha: a token is plausible if its probability after the neutral question is at least
            this share of the largest one.
        given: which question a prompt is: `neutral`, and the other one gets `cue`; or `leading`,
            and the other one loses its sentences of opinion
            (`prompts.leading.neutralised`). A prompt without another question is not guided.
        cue: the opinion that is appended to a neutral question; empty: none is made.
    """

    name: ClassVar[str] = "lqcd"
    readings: ClassVar[int] = 2
    reads_contrast: ClassVar[bool] = True

    strength: float = 1.0
    alpha: float = 0.1
    given: str = "neutral"
    cue: str = "I already have an opinion about this, and I hope that you agree with me."

    def __post_init__(self) -> None:
        _STRENGTH.check("strength", self.strength)
        PLAUSIBLE.check("alpha", self.alpha)
        if self.given not in _KINDS:
            raise OptionError(f"given is {self.given!r}", hint="Give neutral or leading")

    def contrast(self, prompt: GivenPrompt) -> GivenPrompt | None:
        """Return the other question; None if none can be made."""
        if self.given == "leading":
            return neutralised(prompt)
        return with_cue(prompt, self.cue) if self.cue else None

    def build(self, parts: Parts) -> LanguageModel:
        """Return the target, with two prompts."""
        target = parts.target
        sources = Source(model=target), Source(model=target, view=contrast)
        weights = (1.0 + self.strength, -self.strength)
        neutral = _KINDS.index(self.given)
        if neutral:
            weights = weights[::-1]
        return Mixed(
            sources, Weighted(weights=weights, alpha=self.alpha, reference=neutral), str(self)
        )


METHOD = Method(
    name="lqcd",
    cls=Lqcd,
    summary="follows the user's opinion less: contrasts a neutral question with a leading one",
    paper=Paper("LQCD", "2408.11261"),
    promise=Exactness.LOSSY,
    memory="a second cache of each text",
)
