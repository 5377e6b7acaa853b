"""All tasks by name, and their items."""

import random
from collections.abc import Iterator

from outrider.core.errors import OptionError, reject_unknown
from outrider.diffusion.parallel.item import TEST, Item, Task, draw
from outrider.diffusion.parallel.objects import OBJECT_TASKS
from outrider.diffusion.parallel.puzzles import PUZZLE_TASKS
from outrider.diffusion.parallel.sentences import SENTENCE_TASKS
from outrider.diffusion.parallel.waiting_line import LINE_TASKS

PARALLEL_TASKS: dict[str, Task] = {
    task.name: task for task in (*LINE_TASKS, *SENTENCE_TASKS, *PUZZLE_TASKS)
}
"""The seventeen tasks of ParallelBench."""
TASKS: dict[str, Task] = PARALLEL_TASKS | {task.name: task for task in OBJECT_TASKS}
"""These, and JSON objects."""

_MISSES = 1000
"""Draws of known items after which there are no others."""


def task_named(name: str) -> Task:
    """Return a task. Raises `OptionError` for an unknown name."""
    reject_unknown("task", [name], TASKS)
    return TASKS[name]


def items(name: str, count: int, *, seed: int = 0, split: str = TEST) -> Iterator[Item]:
    """Yield `count` items of a task with different keys; equal seeds give equal items.

    Raises:
        OptionError: there is no such task, or it has too few items.
    """
    task = task_named(name)
    rng = random.Random(f"{seed}/{split}/{name}")
    seen: set[str] = set()
    misses = 0
    while len(seen) < count:
        item = draw(task, rng, split)
        misses = misses + 1 if item.key in seen else 0
        if misses > _MISSES:
            raise OptionError(f"task {name} has too few items", hint=f"Ask for {len(seen)}")
        if item.key not in seen:
            seen.add(item.key)
            yield item
