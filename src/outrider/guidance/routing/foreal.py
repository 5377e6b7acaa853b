"""FoReaL-Decoding: a strong model begins each sentence, and a weak one finishes it.

"Follow the Reasoning Leader" (arXiv 2506.06998): the two models disagree mostly at the beginnings
of sentences.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Found, Mask
from outrider.guidance.recipe import OtherModel, Parts, Recipe
from outrider.guidance.routing.routed import Routed
from outrider.guidance.routing.sentences import SentencePlaces, pieces
from outrider.guidance.source import Source
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper
from outrider.sampling.noise import uniform

_LEAD = Range(0, whole=True, hint="Give a number of tokens, such as 15")
_SHARE = Range(0.0, 1.0, hint="Give a share of the sentences; 1 is all of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreal(Recipe):
    """The target writes the first `lead` tokens of a sentence, `weak` the others.

    A model that takes over reads what it has missed in one forward.

    Attributes:
        weak: the model that finishes sentences; it has the target's vocabulary.
        lead: tokens of a sentence that the target writes.
        share: share of the sentences that the target begins; `weak` writes the others alone.
        seed: selects these sentences.
        longest: tokens that `weak` writes in one go; after that, a sentence begins.
    """

    name: ClassVar[str] = "foreal"

    weak: OtherModel
    lead: int = 15
    share: float = 1.0
    seed: int = 0
    longest: int = 128

    def __post_init__(self) -> None:
        _LEAD.check("lead", self.lead)
        _SHARE.check("share", self.share)
        AT_LEAST_ONE.check("longest", self.longest)

    def models(self) -> Mapping[str, OtherModel]:
        """Return the weak model."""
        return {"weak": self.weak}

    def build(self, parts: Parts) -> LanguageModel:
        """Return the pair of models. Raises `OptionError` without a tokenizer."""
        if parts.codec is None:
            raise OptionError(
                "'foreal' looks for the ends of sentences, and the target has no tokenizer",
                hint="Load the target from a folder with a tokenizer, or give tokenizer=...",
            )
        places = SentencePlaces(pieces(parts.codec), self.lead + self.longest)
        sources = Source(model=parts.target), Source(model=parts.models["weak"])
        return Mixed(sources, _Leading(self, places), str(self))


@dataclass(frozen=True, slots=True)
class _Leading(Routed):
    """The first source begins sentences."""

    recipe: Foreal
    places: SentencePlaces
    reads_texts: ClassVar[bool] = True

    def leads(self, found: Found) -> Mask:
        return torch.tensor([self._leads(text) for text in found.texts], dtype=torch.bool)

    def _leads(self, text: tuple[int, ...]) -> bool:
        place = self.places.after(text)
        if place.written >= self.recipe.lead:
            return False
        return uniform((self.recipe.seed << 32) ^ place.sentence) < self.recipe.share


METHOD = Method(
    name="foreal",
    cls=Foreal,
    summary="the target begins each sentence, and a smaller model finishes it",
    paper=Paper("FoReaL-Decoding", "2506.06998"),
    promise=Exactness.LOSSY,
    needs="a smaller model of the same vocabulary, and a tokenizer",
    memory="the smaller model and its cache",
)
