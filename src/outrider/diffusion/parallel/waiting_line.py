"""Waiting line: lists of three to six names that are copied or changed."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from outrider.diffusion.parallel.item import TEST, Item, Task
from outrider.diffusion.parallel.words import LINE_WORDS, NAMES, TEST_NAMES

Line = tuple[str, ...]
SLOT = 16
_WORD_SHARE = 0.4
"""Training lines with other words among the names."""
_UNSEEN_SHARE = 0.25
"""Test lines with a name that no training line holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a list.

    Attributes:
        lead: the instruction; `{new}` and `{place}` are filled in.
        right: whether `answer` is a correct result for (line, new, place); places count from one.
        make: draws a correct result of (line, new, place).
    """

    lead: str
    right: Callable[[Line, str, int, Line], bool]
    make: Callable[[Line, str, int, random.Random], Line]


def line_text(line: Line) -> str:
    """Return a list as the tasks write it: each name follows a space."""
    return "".join(f" {name}," for name in line)[:-1]


def read_line(text: str) -> Line:
    """Return the names of a list."""
    return tuple(part.strip() for part in text.split(","))


def is_shuffled(line: Line, answer: Line) -> bool:
    """Whether the answer has the same names in another order."""
    return Counter(line) == Counter(answer) and line != answer


def is_inserted(line: Line, new: str, answer: Line) -> bool:
    """Whether removing one `new` from the answer restores the list."""
    return any(
        name == new and answer[:at] + answer[at + 1 :] == line for at, name in enumerate(answer)
    )


def is_removed(line: Line, answer: Line) -> bool:
    """Whether the answer is the list without one name."""
    return any(line[:at] + line[at + 1 :] == answer for at in range(len(line)))


def is_replaced(line: Line, new: str, answer: Line) -> bool:
    """Whether exactly one place differs, and holds `new`."""
    if len(line) != len(answer):
        return False
    changed = [name for old, name in zip(line, answer, strict=True) if old != name]
    return changed == [new]


def _shuffled(line: Line, rng: random.Random) -> Line:
    while True:
        found = tuple(rng.sample(line, len(line)))
        if found != line:
            return found


def _insert(line: Line, new: str, at: int) -> Line:
    return (*line[:at], new, *line[at:])


def _remove(line: Line, at: int) -> Line:
    return line[:at] + line[at + 1 :]


def _replace(line: Line, new: str, at: int) -> Line:
    return (*line[:at], new, *line[at + 1 :])


CHANGES = {
    "copy": Change(
        lead="Copy the line.",
        right=lambda line, new, place, answer: answer == line,
        make=lambda line, new, place, rng: line,
    ),
    "reverse": Change(
        lead="Reverse the line.",
        right=lambda line, new, place, answer: answer == line[::-1],
        make=lambda line, new, place, rng: line[::-1],
    ),
    "sort": Change(
        lead="Sort the line by name.",
        right=lambda line, new, place, answer: answer == tuple(sorted(line)),
        make=lambda line, new, place, rng: tuple(sorted(line)),
    ),
    "shuffle": Change(
        lead="Shuffle the line.",
        right=lambda line, new, place, answer: is_shuffled(line, answer),
        make=lambda line, new, place, rng: _shuffled(line, rng),
    ),
    "insert-index": Change(
        lead="Insert {new} at place {place}.",
        right=lambda line, new, place, answer: answer == _insert(line, new, place - 1),
        make=lambda line, new, place, rng: _insert(line, new, place - 1),
    ),
    "insert-random": Change(
        lead="Insert {new} anywhere.",
        right=lambda line, new, place, answer: is_inserted(line, new, answer),
        make=lambda line, new, place, rng: _insert(line, new, rng.randrange(len(line) + 1)),
    ),
    "remove-index": Change(
        lead="Remove the name at place {place}.",
        right=lambda line, new, place, answer: answer == _remove(line, place - 1),
        make=lambda line, new, place, rng: _remove(line, place - 1),
    ),
    "remove-random": Change(
        lead="Remove any name.",
        right=lambda line, new, place, answer: is_removed(line, answer),
        make=lambda line, new, place, rng: _remove(line, rng.randrange(len(line))),
    ),
    "replace-index": Change(
        lead="Replace the name at place {place} by {new}.",
        right=lambda line, new, place, answer: answer == _replace(line, new, place - 1),
        make=lambda line, new, place, rng: _replace(line, new, place - 1),
    ),
    "replace-random": Change(
        lead="Replace any name by {new}.",
        right=lambda line, new, place, answer: is_replaced(line, new, answer),
        make=lambda line, new, place, rng: _replace(line, new, rng.randrange(len(line))),
    ),
}
"""The changes by name."""


def _names(rng: random.Random, split: str, kind: str) -> list[str]:
    """Draw a line of names, and a further name.

    A quarter of the test lines hold a name that no training line holds; not those that are sorted,
    since the order of an unseen name cannot be known. All test lines differ from training lines.
    """
    count = rng.randint(3, 6)
    if split != TEST and rng.random() < _WORD_SHARE:
        return rng.sample((*NAMES, *LINE_WORDS), count + 1)
    if split != TEST or kind == "sort" or rng.random() >= _UNSEEN_SHARE:
        return rng.sample(NAMES, count + 1)
    drawn = [rng.choice(TEST_NAMES), *rng.sample(NAMES, count - 1)]
    rng.shuffle(drawn)
    return [*drawn, rng.choice([name for name in NAMES if name not in drawn])]


def make_item(kind: str, rng: random.Random, split: str) -> Item:
    """Draw an item of one kind of change, with one worked example in its prompt."""
    change = CHANGES[kind]
    # The example is shorter than most lists and has names of both splits only.
    *shown, extra = rng.sample(NAMES, 4)
    example = tuple(shown)
    place = rng.randint(1, len(example))
    result = change.make(example, extra, place, rng)
    *drawn, new = _names(rng, split, kind)
    line, at = tuple(drawn), rng.randint(1, len(drawn))
    prompt = (
        f"{change.lead.format(new=extra, place=place)}{line_text(example)}\n"
        f"->{line_text(result)}\n"
        f"{change.lead.format(new=new, place=at)}{line_text(line)}\n->"
    )
    return Item(
        prompt=prompt,
        key=f"{','.join(line)}/{new}/{at}",
        score=lambda text: float(change.right(line, new, at, read_line(text))),
        answer=lambda own: line_text(change.make(line, new, at, own)),
    )


def _task(kind: str) -> Task:
    return Task(
        name=kind,
        group="waiting line",
        slot=SLOT,
        make=lambda rng, split: make_item(kind, rng, split),
    )


LINE_TASKS = tuple(_task(kind) for kind in CHANGES)
