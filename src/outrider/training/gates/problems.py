"""Problems whose answers stand earlier in their text, and the choice of those a model can solve.

Each text gives some facts twice, in two orders, and then asks for one of them: all answers of the
second pass, and the last one, can be found only by reading what stands far before.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from outrider.core.types import IntArray, as_ids
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.training.gates.gated import Gated

Piece = tuple[str, bool]
"""A piece of text, and whether it is an answer."""
Fact = tuple[str, str]
"""The part that asks, and the answer."""

_THINGS = [
    "apple",
    "basket",
    "candle",
    "dog",
    "egg",
    "fish",
    "garden",
    "hat",
    "ink",
    "jar",
    "key",
    "lamp",
    "map",
    "nail",
    "oven",
    "pen",
    "queen",
    "ring",
    "ship",
    "tree",
    "vase",
    "wheel",
    "yarn",
    "boot",
    "cup",
    "door",
    "fork",
    "gate",
    "horn",
    "iron",
]
_PEOPLE = ["Mary", "John", "Daniel", "Sandra", "Fred", "Bill", "Jeff", "Julie"]
_PLACES = [
    "kitchen",
    "garden",
    "office",
    "bathroom",
    "bedroom",
    "hallway",
    "park",
    "school",
    "cinema",
]
_VERBS = ("went to", "moved to", "travelled to")
_OTHERS = (
    " {who} saw a {thing} in the {place}.",
    " In the {place}, {who} asked about the {thing}.",
    " There was no {thing} at the {place}, so {who} went home.",
    " {who} said that it would rain, and left the {thing} behind.",
    " Nobody had been in the {place} for a long time.",
    " When {who} came back, the {thing} was still there.",
    " It was late, and the {place} was very quiet.",
    " {who} and a friend talked about the old {thing} for an hour.",
)
"""Sentences that give no fact."""
_BATCH = 32


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One text.

    Attributes:
        task: the kind of the problem.
        prompt: its tokens, up to the answer.
        answer: the tokens of the answer.
        rows: the places whose next token belongs to an answer, those of earlier ones included.
    """

    task: str
    prompt: IntArray
    answer: IntArray
    rows: IntArray

    @property
    def ids(self) -> IntArray:
        """Prompt and answer."""
        return np.concatenate((self.prompt, self.answer))


def _codes(count: int, rng: random.Random) -> Iterator[Fact]:
    for thing in rng.sample(_THINGS, min(count, len(_THINGS))):
        yield f" {thing} =", f" {rng.randrange(10, 100)},"


def _places(count: int, rng: random.Random) -> Iterator[Fact]:
    for who in rng.sample(_PEOPLE, min(count, len(_PEOPLE))):
        yield f" {who} {rng.choice(_VERBS)} the", f" {rng.choice(_PLACES)}."


TASKS: Mapping[str, Callable[[int, random.Random], Iterator[Fact]]] = {
    "codes": _codes,
    "places": _places,
}
"""What facts are about: numbers of things, or places of people."""


def make_problem(
    task: str, facts: int, tokenizer: Tokenizer, rng: random.Random, filler: int = 0
) -> Problem:
    """Make one problem.

    The fact that is asked for at the end stands in the first half of both passes, so that recent
    tokens do not hold it.

    Args:
        task: a name of `TASKS`.
        facts: facts of each pass; at most those that the task knows.
        tokenizer: the model's.
        rng: draws the facts.
        filler: at least so many tokens of sentences without facts stand at random places between
            the facts.
    """
    first = list(TASKS[task](facts, rng))
    early = max(1, len(first) // 2)
    front, back = first[:early], first[early:]
    asked, answer = front[rng.randrange(early)]
    again = [*rng.sample(front, early), *rng.sample(back, len(back))]
    parts: list[list[Piece]] = [[(question, False), (known, False)] for question, known in first]
    parts += [[(question, False), (known, True)] for question, known in again]
    while filler > 0:
        other = _other(rng)
        parts.insert(rng.randrange(len(parts) + 1), [(other, False)])
        filler -= len(tokenizer.encode_plain(other))
    pieces = [piece for part in parts for piece in part] + [(asked, False)]
    ids, rows = list[int](), list[int]()
    for text, is_answer in pieces:
        own = tokenizer.encode_plain(text)
        if is_answer:
            rows += range(len(ids) - 1, len(ids) + len(own) - 1)
        ids += own
    final = tokenizer.encode_plain(answer)
    rows += range(len(ids) - 1, len(ids) + len(final) - 1)
    return Problem(task, as_ids(ids), as_ids(final), as_ids(rows))


def _other(rng: random.Random) -> str:
    who, thing, place = rng.choice(_PEOPLE), rng.choice(_THINGS), rng.choice(_PLACES)
    return rng.choice(_OTHERS).format(who=who, thing=thing, place=place)


def draw_problem(
    tasks: Sequence[str], facts: int, tokenizer: Tokenizer, name: str, filler: int = 0
) -> Problem:
    """Make the problem of this name, which is the seed of all that is drawn; tasks are drawn
    too."""
    rng = random.Random(name)
    return make_problem(rng.choice(list(tasks)), facts, tokenizer, rng, filler)


def of_equal_length(problems: Sequence[Problem]) -> Iterator[list[int]]:
    """Yield the places of the problems whose prompts and whose answers have equal lengths."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, one in enumerate(problems):
        groups.setdefault((len(one.prompt), len(one.answer)), []).append(place)
    yield from groups.values()


def stacked(arrays: Sequence[IntArray]) -> torch.Tensor:
    """Return arrays of equal length as rows."""
    return torch.from_numpy(np.stack(arrays))


def solved(model: Gated, problems: Sequence[Problem], gates: torch.Tensor) -> list[bool]:
    """Return which problems the model answers in full, with the most likely tokens.

    Args:
        model: the model.
        problems: the problems.
        gates: `[layers, kv_heads]`.
    """
    found = [False] * len(problems)
    for group in of_equal_length(problems):
        for start in range(0, len(group), _BATCH):
            places = group[start : start + _BATCH]
            own = [problems[place] for place in places]
            answers = stacked([one.answer for one in own])
            written = model.write(stacked([one.prompt for one in own]), gates, answers.shape[1])
            for place, right in zip(places, (written == answers).all(1).tolist(), strict=True):
                found[place] = right
    return found
