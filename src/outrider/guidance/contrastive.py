"""Contrastive decoding: prefers tokens that a large model likes better than a small one does.

Li et al., "Contrastive Decoding: Open-ended Text Generation as Optimization" (arXiv 2210.15097).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from outrider.core.checks import Range
from outrider.core.types import Exactness, Prompt
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Weighted
from outrider.guidance.recipe import PLAUSIBLE, OtherModel, Parts, Recipe
from outrider.guidance.source import Source, View, same
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper

_TEMPERATURE = Range(0.0, above=True, hint="Give a number above 0, such as 0.5")
_CONTEXT = Range(0, whole=True, hint="Give a number of tokens; 0 reads the whole prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrastive(Recipe):
    """`log p(target) - log p(amateur)`, among the tokens that the target finds plausible.

    Attributes:
        amateur: a weaker model with the same vocabulary.
        alpha: a token is plausible if its probability is at least this share of the largest one.
        temperature: divides the logits of the amateur.
        context: how many tokens of the prompt the amateur reads, the last ones; 0: all.
    """

    name: ClassVar[str] = "contrastive"

    amateur: OtherModel
    alpha: float = 0.1
    temperature: float = 0.5
    context: int = 0

    def __post_init__(self) -> None:
        PLAUSIBLE.check("alpha", self.alpha)
        _TEMPERATURE.check("temperature", self.temperature)
        _CONTEXT.check("context", self.context)

    def models(self) -> Mapping[str, OtherModel]:
        """Return the amateur."""
        return {"amateur": self.amateur}

    def build(self, parts: Parts) -> LanguageModel:
        """Return the target, contrasted with the amateur."""
        view = _last(self.context) if self.context else same
        sources = Source(model=parts.target), Source(model=parts.models["amateur"], view=view)
        mixer = Weighted(
            weights=(1.0, -1.0),
            space="logprob",
            alpha=self.alpha,
            temperatures=(1.0, self.temperature),
        )
        return Mixed(sources, mixer, str(self))


def _last(count: int) -> View:
    """Return the view of the last tokens of a prompt."""
    return lambda prompt: Prompt(token_ids=prompt.token_ids[-count:])


METHOD = Method(
    name="contrastive",
    cls=Contrastive,
    summary="prefers what a smaller model of the same vocabulary does not expect",
    paper=Paper("Contrastive Decoding", "2210.15097"),
    promise=Exactness.LOSSY,
    needs="an amateur: a weaker model with the target's vocabulary",
    memory="the amateur and its cache",
)
