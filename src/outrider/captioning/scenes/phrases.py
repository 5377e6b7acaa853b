"""Generates sentences about drawn scenes with a chosen level of detail."""

from dataclasses import dataclass
from enum import IntEnum
from random import Random

from outrider.captioning.scenes.things import SceneTruth, Thing

VAGUE_NOUNS = ("shape", "thing")
_COUNTS = ("", "a", "two", "three", "four", "five")


class Detail(IntEnum):
    """How much of a scene a sentence describes."""

    VAGUE = 0
    PARTIAL = 1
    EXACT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """Weights of vague, partial and exact sentences."""

    vague: float
    partial: float
    exact: float

    def detail(self, random: Random) -> Detail:
        """Draw the level of detail for one sentence."""
        weights = (self.vague, self.partial, self.exact)
        return random.choices(tuple(Detail), weights)[0]


VAGUE_MANNER = Manner(vague=0.55, partial=0.25, exact=0.20)
"""Weights for a captioner that later training can improve."""
MIXED_MANNER = Manner(vague=0.2, partial=0.5, exact=0.3)
"""Weights for contrastive training, where the text encoder must read all levels of detail."""


def caption(truth: SceneTruth, detail: Detail, random: Random) -> str:
    """Write one true sentence; with `EXACT` it describes the whole scene."""
    if detail is Detail.VAGUE and len(truth.things) > 1 and random.random() < 0.3:
        return f"{_COUNTS[len(truth.things)]} {random.choice(VAGUE_NOUNS)}s."
    parts = [_phrase(thing, detail, random) for thing in truth.things]
    related = detail is Detail.EXACT or (detail is Detail.PARTIAL and random.random() < 0.5)
    ground = detail is Detail.EXACT or (detail is Detail.PARTIAL and random.random() < 0.3)
    text = _joined(parts, truth.relation if related else "")
    return f"{text} on a {truth.background} background." if ground else f"{text}."


def _phrase(thing: Thing, detail: Detail, random: Random) -> str:
    words = {"size": thing.size, "texture": thing.texture, "color": thing.color}
    if thing.texture == "plain":
        del words["texture"]
    if detail is Detail.EXACT:
        said = list(words.values())
    elif detail is Detail.PARTIAL:
        said = [word for word in words.values() if random.random() < 0.5]
    else:
        said = []
    vague = detail is Detail.VAGUE and random.random() < 0.3
    noun = random.choice(VAGUE_NOUNS) if vague else thing.shape
    first = (said or [noun])[0]
    article = "an" if first[0] in "aeiou" else "a"
    return " ".join([article, *said, noun])


def _joined(parts: list[str], relation: str) -> str:
    if relation and len(parts) > 1:
        whole = f"{parts[0]} {_spelled(relation)} {parts[1]}"
        return f"{whole} and {parts[2]}" if len(parts) > 2 else whole
    if len(parts) < 3:
        return " and ".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _spelled(relation: str) -> str:
    return f"to the {relation}" if relation in ("left of", "right of") else relation
