"""Learns the values of a memory, task after task, and measures what is forgotten."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.memories.bottleneck import Bottleneck

_RANGES: Mapping[str, Range] = {
    "rate": Range(0.0, above=True, hint="Give a learning rate above 0"),
    "epochs": AT_LEAST_ONE,
    "batch": AT_LEAST_ONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How values are learned; `BottleneckRecipe` documents the fields."""

    rate: float
    epochs: int = 20
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Inputs with labels. The keys are frozen, so that they are looked up once.

    Attributes:
        fetched: the key of each book.
        labels: places among the labels of the memory.
    """

    fetched: Int64[Tensor, "rows books"]
    labels: Int64[Tensor, " rows"]


@dataclass(frozen=True, slots=True)
class History:
    """Accuracies on each task (a column) after each task was learned (a row)."""

    rows: tuple[tuple[float, ...], ...]

    @property
    def final(self) -> float:
        """Mean accuracy on all tasks after the last one."""
        return sum(self.rows[-1]) / len(self.rows[-1])

    @property
    def forgetting(self) -> float:
        """How much accuracy was lost since its best value, in the mean over all tasks but the last
        (Chaudhry et al. 2018). 0 for a single task."""
        lost = [
            max(row[task] for row in self.rows[task:-1]) - self.rows[-1][task]
            for task in range(len(self.rows) - 1)
        ]
        return sum(lost) / max(len(lost), 1)


def learn_tasks(
    memory: Bottleneck,
    tasks: Sequence[Examples],
    held_out: Sequence[Examples],
    fitting: Fitting,
    told: Callable[[int], None] = lambda task: None,
) -> History:
    """Learn the tasks one after the other; after each, measure the accuracy on every task.

    Args:
        memory: the memory, whose values change.
        tasks: what is learned.
        held_out: of each task, what is measured; the memory chooses among the labels of all tasks.
        fitting: how it is learned.
        told: called before each task with its number.
    """
    rows: list[tuple[float, ...]] = []
    for number, task in enumerate(tasks):
        told(number)
        learn(memory, task, fitting)
        rows.append(tuple(accuracy(memory, one) for one in held_out))
    return History(tuple(rows))


def learn(memory: Bottleneck, task: Examples, fitting: Fitting) -> None:
    """Learn one task. The order of its rows depends on the seed and on the task alone."""
    generator = torch.Generator().manual_seed(fitting.seed)
    for _ in range(fitting.epochs):
        order = torch.randperm(len(task.labels), generator=generator)
        for part in order.split(fitting.batch):
            memory.learn(task.fetched[part], task.labels[part], fitting.rate)


def accuracy(memory: Bottleneck, examples: Examples) -> float:
    """Return the share of examples whose best score is that of their label."""
    best = memory.scores(examples.fetched).argmax(1)
    return float((best == examples.labels).float().mean())
