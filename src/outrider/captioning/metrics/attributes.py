"""Compares a caption with a drawn scene: how much of the scene it names, and how much of it is
true.

A caption is parsed into facts: shape, color, size and texture of each thing, the relation between
the first two things, and the background. Named things are matched with things in the scene so that
most facts agree. Recall is the share of the scene's facts that are named; the hallucination rate is
the share of named facts that are false. "Plain" is not counted as a fact of a
plain thing; for a thing with a texture it is a false fact.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from outrider.captioning.scenes.things import (
    BACKGROUNDS,
    COLORS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    SceneTruth,
    Thing,
)

_WORDS = {
    **{word: ("shape", word) for word in SHAPES},
    **{word: ("color", word) for word in COLORS},
    **{word: ("size", word) for word in SIZES},
    **{word: ("texture", word) for word in TEXTURES},
}
_NOUNS = frozenset(SHAPES) | {"shape", "thing", "object"}
_OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
_GROUND = re.compile(rf"\bon an? ({'|'.join(BACKGROUNDS)}) background")
_RELATION = re.compile("|".join(RELATIONS))


@dataclass(frozen=True, slots=True)
class Said:
    """The facts that a caption names.

    Attributes:
        things: for each thing, its named attributes (`shape`, `color`, `size`, `texture`).
        relation: position of the first thing relative to the second; empty if not named.
        background: the color of the background; empty if not named.
    """

    things: tuple[dict[str, str], ...]
    relation: str = ""
    background: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Counts over one caption or many.

    Attributes:
        there: number of facts in the scenes.
        said: number of facts that captions name.
        true: number of named facts that are true.
        there_of, true_of: the same by kind (`shape`, `color`, ..., `relation`, `background`).
    """

    there: int = 0
    said: int = 0
    true: int = 0
    there_of: dict[str, int] = field(default_factory=dict)
    true_of: dict[str, int] = field(default_factory=dict)

    @property
    def recall(self) -> float:
        """Share of the scene's facts that are named; 0 if there are none."""
        return self.true / self.there if self.there else 0.0

    @property
    def hallucination_rate(self) -> float:
        """Share of the named facts that are false; 0 if none are named."""
        return (self.said - self.true) / self.said if self.said else 0.0

    def recall_of(self, kind: str) -> float:
        """Return the recall of one kind of fact."""
        there = self.there_of.get(kind, 0)
        return self.true_of.get(kind, 0) / there if there else 0.0

    def __add__(self, other: "Facts") -> "Facts":
        return Facts(
            self.there + other.there,
            self.said + other.said,
            self.true + other.true,
            _added(self.there_of, other.there_of),
            _added(self.true_of, other.true_of),
        )


def read_caption(caption: str) -> Said:
    """Parse the facts that a caption names; unknown words are ignored."""
    text = caption.lower()
    ground = _GROUND.search(text)
    if ground:
        text = text[: ground.start()] + text[ground.end() :]
    things: list[dict[str, str]] = []
    current: dict[str, str] = {}
    places: list[int] = []
    for found in re.finditer(r"[a-z]+", text):
        word = found.group()
        if word in _WORDS:
            kind, value = _WORDS[word]
            current[kind] = value
        if word in _NOUNS:
            things.append(current)
            places.append(found.start())
            current = {}
    relation = _RELATION.search(text)
    between = relation and len(places) > 1 and places[0] < relation.start() < places[1]
    return Said(
        tuple(things),
        relation.group() if relation and between else "",
        ground.group(1) if ground else "",
    )


def facts(caption: str, truth: SceneTruth) -> Facts:
    """Compare one caption with its scene."""
    said = read_caption(caption)
    matches = max(
        _matchings(len(said.things), len(truth.things)),
        key=lambda m: (_agree(said, truth, m), _rightly_plain(said, truth, m)),
    )
    true_of = _true_of(said, truth, matches)
    there_of = _there_of(truth)
    named = sum(len(thing) for thing in said.things) + bool(said.relation) + bool(said.background)
    named -= _rightly_plain(said, truth, matches)
    return Facts(sum(there_of.values()), named, sum(true_of.values()), there_of, true_of)


def all_facts(captions: Sequence[str], truths: Sequence[SceneTruth]) -> Facts:
    """Sum the counts of many captions."""
    total = Facts()
    for caption, truth in zip(captions, truths, strict=True):
        total = total + facts(caption, truth)
    return total


def _matchings(said: int, there: int) -> Iterable[tuple[int, ...]]:
    """Yield assignments of a thing in the scene to each named thing; -1 for none."""
    pool = [*range(there), *[-1] * said]
    return (
        sorted(set(permutations(pool, min(said, 6))), reverse=True)
        if said < 5
        else [tuple(range(there)) + (-1,) * (said - there)]
    )


def _agree(said: Said, truth: SceneTruth, matches: tuple[int, ...]) -> int:
    return sum(_true_of(said, truth, matches).values())


def _true_of(said: Said, truth: SceneTruth, matches: tuple[int, ...]) -> dict[str, int]:
    """Count the named facts that are true, by kind, under this assignment."""
    true: dict[str, int] = {}
    for thing, match in zip(said.things, matches, strict=False):
        if match < 0:
            continue
        for kind, value in thing.items():
            if getattr(truth.things[match], kind) == value and value != "plain":
                true[kind] = true.get(kind, 0) + 1
    if said.relation and len(matches) > 1:
        seen = {(0, 1): truth.relation, (1, 0): _OPPOSITE.get(truth.relation, "")}
        if seen.get((matches[0], matches[1])) == said.relation:
            true["relation"] = 1
    if said.background == truth.background:
        true["background"] = 1
    return true


def _rightly_plain(said: Said, truth: SceneTruth, matches: tuple[int, ...]) -> int:
    """Count the things that are named plain and are plain."""
    pairs = zip(said.things, matches, strict=False)
    plain = [truth.things[match] for thing, match in pairs if match >= 0 and _says_plain(thing)]
    return sum(not _is_textured(thing) for thing in plain)


def _says_plain(said: dict[str, str]) -> bool:
    return said.get("texture") == "plain"


def _there_of(truth: SceneTruth) -> dict[str, int]:
    count = len(truth.things)
    there = {"shape": count, "color": count, "size": count, "background": 1}
    if textured := sum(_is_textured(thing) for thing in truth.things):
        there["texture"] = textured
    if truth.relation:
        there["relation"] = 1
    return there


def _is_textured(thing: Thing) -> bool:
    return thing.texture != "plain"


def _added(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {kind: first.get(kind, 0) + second.get(kind, 0) for kind in first | second}
