"""The static tree of heads whose tokens do not depend on each other."""

import heapq
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import OptionError
from outrider.drafters.statistics.template import CHANCES, Path, Template

Accuracies = NDArray[np.float64]

_FALLS = 0.75
"""Assumed accuracy of a head relative to the head before, where nothing was measured."""


def assumed_accuracies(heads: int) -> Accuracies:
    """Return `[heads, ranks]` accuracies for heads of which none were measured."""
    return np.array([[chance * _FALLS**head for chance in CHANCES] for head in range(heads)])


def greedy_tree(accuracies: Accuracies, nodes: int) -> Template:
    """Return the tree of at most `nodes` nodes with the most expected accepted tokens, best nodes
    first (Medusa, Cai et al. 2024, arXiv 2401.10774).

    The chance of a node is the product of the accuracies of its ranks, as if heads were right
    independently of each other. The node with the largest chance among the next siblings and the
    first children of the tree is added again and again. A rank counts at most as much as the one
    before it, so that the result is the best tree of each size.

    Args:
        accuracies: `[heads, ranks]` how often the token of each rank is right.
        nodes: the largest number of nodes.

    Raises:
        OptionError: fewer than one node, no heads, or accuracies that are no chances.
    """
    usable = accuracies.ndim == 2 and accuracies.size > 0
    if nodes < 1 or not usable or not ((accuracies >= 0) & (accuracies <= 1)).all():
        raise OptionError(
            f"{nodes} nodes are requested of a tree for accuracies of shape "
            f"{list(accuracies.shape)}, expected at least 1 node, and chances of heads and ranks",
            hint="Give nodes of at least 1, and heads that state accuracies from 0 to 1",
        )
    falling = np.minimum.accumulate(accuracies, axis=1)
    heads, ranks = falling.shape
    paths: list[Path] = []
    heap: list[tuple[float, int, Path]] = [(-float(falling[0, 0]), 1, (0,))]
    while heap and len(paths) < nodes:
        negative, size, path = heapq.heappop(heap)
        if negative == 0.0:
            break
        paths.append(path)
        rank = path[-1]
        if rank + 1 < ranks:
            above = negative / float(falling[size - 1, rank])
            sibling = above * float(falling[size - 1, rank + 1])
            heapq.heappush(heap, (sibling, size, (*path[:-1], rank + 1)))
        if size < heads:
            heapq.heappush(heap, (negative * float(falling[size, 0]), size + 1, (*path, 0)))
    return Template(tuple(paths))


def chain_tree(length: int) -> Template:
    """Return the tree of one path of `length` nodes."""
    return Template(tuple((0,) * size for size in range(1, length + 1)))


def reach_of(template: Template, accuracies: Accuracies) -> tuple[float, ...]:
    """Return the chance of each node of a template, at most that of the node before it; ranks that
    were not measured count 0."""
    heads, ranks = accuracies.shape

    def chance(path: Path) -> float:
        known = len(path) <= heads and max(path) < ranks
        parts = [float(accuracies[place, rank]) for place, rank in enumerate(path)] if known else []
        return float(np.prod(parts)) if known else 0.0

    return tuple(accumulate(map(chance, template.paths), min))
