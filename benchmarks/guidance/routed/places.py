"""Places at which the target writes that are not the beginnings of sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from outrider.guidance.mixer import Found, Mask
from outrider.guidance.routing.routed import Routed
from outrider.guidance.routing.sentences import SentencePlaces
from outrider.sampling.noise import uniform


@dataclass(frozen=True)
class AtPlaces(Routed):
    """The target writes the tokens of one text at given places.

    Attributes:
        places: for each token of the text whether the target writes it; set before each text.
    """

    places: list[bool] = field(default_factory=list[bool])
    reads_texts = True

    def leads(self, found: Found) -> Mask:
        """Return the rows of the target."""
        sizes = [len(text) for text in found.texts]
        leads = [size < len(self.places) and self.places[size] for size in sizes]
        return torch.tensor(leads, dtype=torch.bool)


@dataclass(frozen=True)
class Inside(Routed):
    """The target writes a run of `lead` tokens of each sentence after `skip` others."""

    find: SentencePlaces
    skip: int
    lead: int
    reads_texts = True

    def leads(self, found: Found) -> Mask:
        """Return the rows of the target."""
        written = [self.find.after(text).written for text in found.texts]
        leads = [self.skip <= count < self.skip + self.lead for count in written]
        return torch.tensor(leads, dtype=torch.bool)


@dataclass(frozen=True)
class AtRandom(Routed):
    """The target writes a share of the tokens, at places that depend on the text only."""

    share: float
    reads_texts = True

    def leads(self, found: Found) -> Mask:
        """Return the rows of the target."""
        keys = [hash(text) & (2**63 - 1) for text in found.texts]
        return torch.tensor([uniform(key) < self.share for key in keys], dtype=torch.bool)


def begun(find: SentencePlaces, text: Sequence[int], lead: int) -> list[bool]:
    """Return for each token of a text whether it is among the first `lead` of its sentence."""
    return [find.after(tuple(text[:i])).written < lead for i in range(len(text))]


def moved(places: Sequence[bool], number: int) -> list[bool]:
    """Return the places moved round: the first run becomes the last one, and a part of the gap
    after it, which differs between prompts, stays in front. There are as many runs (one less if a
    run ends the text), of the same lengths."""
    end = places.index(False) if False in places else len(places)
    turned = [*places[end:], *places[:end]]
    gap = turned.index(True) if True in turned else 0
    late = gap - round(gap * uniform(number))
    return [*turned[late:], *turned[:late]]


def half_sentence(find: SentencePlaces, texts: Sequence[Sequence[int]]) -> int:
    """Return half of the mean length of a sentence in tokens, at least 1."""
    sentences = sum(find.after(tuple(text)).sentence + 1 for text in texts)
    return max(sum(map(len, texts)) // (2 * sentences), 1)
