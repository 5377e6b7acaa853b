"""Text writing: words to a sentence, paraphrases, summaries.

ParallelBench checks grammar with a general checker. Here a sentence is correct when the small
grammar below reads it; models are trained on sentences of this grammar.
"""

import random
import re
from dataclasses import dataclass, replace

from outrider.diffusion.parallel.item import Item, Task
from outrider.diffusion.parallel.words import (
    ADJECTIVES,
    ALL_NAMES,
    OBJECTS,
    PLACES,
    PLAIN,
    SUBJECTS,
    SYNONYMS,
    VERBS,
)


def _any(words: tuple[str, ...]) -> str:
    return "|".join(sorted({*words, *(SYNONYMS[word] for word in words if word in SYNONYMS)}))


_BODY = (
    rf"(?:(?P<first>{_any(ADJECTIVES)}) )?(?P<subject>{_any(SUBJECTS)}) (?P<verb>{_any(VERBS)}) "
    rf"the (?:(?P<second>{_any(ADJECTIVES)}) )?(?P<thing>{_any(OBJECTS)})"
)
_PLACE = rf"in the (?P<place>{_any(PLACES)})"
_PLAIN_ORDER = re.compile(rf"The {_BODY}(?: {_PLACE})?\.")
_PLACE_FIRST = re.compile(rf"I{_PLACE[1:]}, the {_BODY}\.")
_SUMMARY = re.compile(
    rf"(?P<name>{'|'.join(ALL_NAMES)}) (?P<verb>{_any(VERBS)}) (?P<things>the [a-z, ]+)\."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a sentence says. Adjectives and the place may be empty."""

    first: str = ""
    subject: str
    verb: str
    second: str = ""
    thing: str
    place: str = ""

    def words(self) -> list[str]:
        """Return the words that are not empty."""
        found = (self.first, self.subject, self.verb, self.second, self.thing, self.place)
        return [word for word in found if word]

    def text(self, *, place_first: bool = False) -> str:
        """Return the sentence, with a space before it as all answers have."""
        gap = {word: f"{word} " if word else "" for word in (self.first, self.second)}
        body = f"{gap[self.first]}{self.subject} {self.verb} the {gap[self.second]}{self.thing}"
        if place_first:
            return f" In the {self.place}, the {body}."
        return f" The {body}{f' in the {self.place}' if self.place else ''}."

    def meaning(self) -> "Scene":
        """Return the scene without synonyms."""
        found: dict[str, str] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Scene(**{name: PLAIN.get(word) or word for name, word in found.items()})


def read_scene(text: str) -> Scene | None:
    """Return what a sentence says; None if the grammar does not read it."""
    found = _PLAIN_ORDER.fullmatch(text.strip()) or _PLACE_FIRST.fullmatch(text.strip())
    if found is None:
        return None
    parts: dict[str, str | None] = found.groupdict()
    return Scene(**{name: word or "" for name, word in parts.items()})


def _scene(rng: random.Random) -> Scene:
    first, second = rng.sample(ADJECTIVES, 2)
    return Scene(
        first=first if rng.random() < 0.5 else "",
        subject=rng.choice(SUBJECTS),
        verb=rng.choice(VERBS),
        second=second if rng.random() < 0.5 else "",
        thing=rng.choice(OBJECTS),
        place=rng.choice(PLACES) if rng.random() < 0.5 else "",
    )


_GIVEN = {
    "easy": ("subject", "verb", "thing"),
    "medium": ("subject", "thing", "place"),
    "hard": ("first", "subject", "verb", "thing", "place"),
}
"""The parts of a scene whose words are given; the other words are free."""


def make_words(level: str, rng: random.Random, split: str) -> Item:
    """Draw words for a sentence. At the hard level the adjective may stand at either noun."""
    scene = _scene(rng)
    full = replace(
        scene, first=scene.first or rng.choice(ADJECTIVES), place=scene.place or rng.choice(PLACES)
    )
    words = [getattr(full, name) for name in _GIVEN[level]]
    if level != "easy":
        rng.shuffle(words)

    def score(text: str) -> float:
        found = read_scene(text)
        return float(found is not None and set(words) <= set(found.words()))

    def answer(own: random.Random) -> str:
        free = _scene(own)
        given = {name: getattr(full, name) for name in _GIVEN[level]}
        made = replace(free, **given)
        if made.second == made.first:
            made = replace(made, second="")
        return made.text()

    prompt = f"Write a sentence with the words: {', '.join(words)}."
    return Item(prompt=prompt, key=",".join(words), score=score, answer=answer)


def make_paraphrase(rng: random.Random, split: str) -> Item:
    """Draw a sentence that is to be said in other words: synonyms, or the place at the front."""
    scene = replace(_scene(rng), first=rng.choice(ADJECTIVES[:5]), place=rng.choice(PLACES))
    if scene.second == scene.first:
        scene = replace(scene, second="")

    def score(text: str) -> float:
        found = read_scene(text)
        same = found is not None and found.meaning() == scene.meaning()
        return float(same and text.strip() != scene.text().strip())

    def answer(own: random.Random) -> str:
        while True:
            found = {name: getattr(scene, name) for name in scene.__dataclass_fields__}
            other = {
                name: SYNONYMS[word] if word in SYNONYMS and own.random() < 0.5 else word
                for name, word in found.items()
            }
            made = Scene(**other).text(place_first=own.random() < 0.5)
            if made != scene.text():
                return made

    prompt = f"Say it in other words:{scene.text()}"
    return Item(prompt=prompt, key=scene.text(), score=score, answer=answer)


def make_summary(rng: random.Random, split: str) -> Item:
    """Draw three sentences with one name and one verb, which one sentence sums up."""
    name, verb = rng.choice(ALL_NAMES), rng.choice(VERBS)
    things = rng.sample(OBJECTS, 3)
    place = rng.choice(PLACES)
    told = [f"{name} {verb} the {rng.choice(ADJECTIVES)} {thing}." for thing in things]
    told.insert(rng.randint(1, 3), f"It was in the {place}.")

    def score(text: str) -> float:
        found = _SUMMARY.fullmatch(text.strip())
        if found is None or (found["name"], found["verb"]) != (name, verb):
            return 0.0
        parts = re.fullmatch(r"the (\w+), the (\w+) and the (\w+)", found["things"])
        return float(parts is not None and sorted(parts.groups()) == sorted(things))

    def answer(own: random.Random) -> str:
        a, b, c = own.sample(things, 3)
        return f" {name} {verb} the {a}, the {b} and the {c}."

    prompt = f"Sum up in one sentence: {' '.join(told)}"
    return Item(prompt=prompt, key=prompt, score=score, answer=answer)


def _words_task(level: str) -> Task:
    return Task(
        name=f"words-{level}",
        group="text writing",
        slot=24,
        make=lambda rng, split: make_words(level, rng, split),
    )


SENTENCE_TASKS = (
    *(_words_task(level) for level in _GIVEN),
    Task(name="paraphrase", group="text writing", slot=24, make=make_paraphrase),
    Task(name="summary", group="text writing", slot=24, make=make_summary),
)
