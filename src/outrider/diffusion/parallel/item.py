"""What a task is: seeded items, each with a program that scores answers."""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

TRAIN, TEST = "train", "test"
_TEST_SHARE = 8
"""One in so many keys belongs to test items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a task.

    Attributes:
        prompt: the text of the user's turn.
        key: what identifies the item; it decides whether training may see it.
        score: maps the text of an answer to 0 or 1, or to a share between them.
        answer: returns one correct answer, drawn uniformly where several are correct.
    """

    prompt: str
    key: str
    score: Callable[[str], float]
    answer: Callable[[random.Random], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task: items are drawn by `make`.

    Attributes:
        name: its name in tables.
        group: the group of ParallelBench that it belongs to.
        slot: positions that an answer is given, its end token included.
        make: draws an item; `split` says whose names it may use.
    """

    name: str
    group: str
    slot: int
    make: Callable[[random.Random, str], Item]


def split_of(key: str) -> str:
    """Return the split of a key. It depends on the key alone, so no item is in both splits."""
    return TEST if zlib.crc32(key.encode()) % _TEST_SHARE == 0 else TRAIN


def draw(task: Task, rng: random.Random, split: str) -> Item:
    """Draw an item of a split. Raises ValueError for an unknown split."""
    if split not in (TRAIN, TEST):
        raise ValueError(f"split is {split!r}: give {TRAIN} or {TEST}")
    while True:
        item = task.make(rng, split)
        if split_of(f"{task.name}/{item.key}") == split:
            return item
