"""Shapes of draft trees: which nodes have children, and of which rank.

A node is identified by its *path*: the ranks from the root to it, where () is the end of the text;
(0, 2) is the third best child of the best child. A template lists paths from most to least
promising, parents first, so that its first n nodes are its best tree of n nodes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path as FilePath

import numpy as np

from outrider.core.errors import OptionError
from outrider.core.types import IntArray, as_ids

Path = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """The part of a template that a budget allows, in the layout for gathering level by level.

    Attributes:
        parents: `[nodes]`, -1 for children of the text.
        ranks: `[nodes]` rank of each node among its siblings.
        levels: for each depth the numbers of its nodes.
        codes: for the text, then for each node: a number that identifies its path, independent of
            the cut.
    """

    parents: IntArray
    ranks: IntArray
    levels: tuple[IntArray, ...]
    codes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def gathers(self) -> tuple[tuple[IntArray, IntArray, IntArray], ...]:
        """For each depth: the nodes and their parents, numbered with the text as 0, and ranks."""
        return tuple((n + 1, self.parents[n] + 1, self.ranks[n]) for n in self.levels)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """For the text, then for each node: the numbers of its children, by rank."""
        found: list[list[int]] = [[] for _ in range(len(self) + 1)]
        for node, parent in enumerate(self.parents.tolist()):
            found[parent + 1].append(node)
        return tuple(tuple(nodes) for nodes in found)


@dataclass(frozen=True)
class Template:
    """A tree shape.

    Attributes:
        paths: rank paths from most to least promising: every parent and every better-ranked sibling
            before the node itself.

    Raises:
        OptionError: a path that occurs twice, or without its parent or its better-ranked sibling
            before it.
    """

    paths: tuple[Path, ...]
    _cuts: dict[tuple[int, int], Cut] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        seen: set[Path] = {()}
        for path in self.paths:
            elder = (*path[:-1], path[-1] - 1) if path and path[-1] > 0 else ()
            if not path or path in seen or path[:-1] not in seen or elder not in seen:
                raise OptionError(
                    f"the path {path} occurs twice, or before its parent or sibling",
                    hint="List parents before children, and ranks from 0 upwards",
                )
            seen.add(path)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def depth(self) -> int:
        """Number of tokens on its longest path."""
        return max(map(len, self.paths), default=0)

    @property
    def width(self) -> int:
        """Largest number of children of a node."""
        return max((path[-1] + 1 for path in self.paths), default=0)

    def cut(self, nodes: int, depth: int) -> Cut:
        """Return its best `nodes` nodes that are at most `depth` deep; the result is cached."""
        key = (min(nodes, len(self)), min(depth, self.depth))
        if key not in self._cuts:
            self._cuts[key] = _lay_out([p for p in self.paths if len(p) <= key[1]][: key[0]])
        return self._cuts[key]

    def save(self, file: FilePath | str) -> None:
        """Write the template as JSON."""
        FilePath(file).write_text(json.dumps({"paths": self.paths}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: FilePath | str) -> "Template":
        """Read a file that `save` wrote. Raises `OptionError` for any other content."""
        try:
            paths = json.loads(FilePath(file).read_text(encoding="utf-8"))["paths"]
            return cls(tuple(tuple(int(rank) for rank in path) for path in paths))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{file} holds no tree template ({error})", hint="Give a file that `save` wrote"
            ) from None


def from_counts(counts: Mapping[Path, int], chances: Sequence[float]) -> Template:
    """Return the tree in which the node `path` has `counts[path]` children.

    Its nodes are ordered by the product of `chances[rank]` along their paths, the prior chance that
    a node is kept; `chances` never increase.
    """
    if any(a < b for a, b in pairwise(chances)):
        raise OptionError(
            "the chances increase with the rank", hint="Give the best rank's chance first"
        )
    paths: list[Path] = []
    for path, count in counts.items():
        paths += [(*path, rank) for rank in range(count)]
    promise = {p: float(np.prod([chances[rank] for rank in p])) for p in paths}
    return Template(tuple(sorted(paths, key=lambda p: (-promise[p], len(p), p))))


def _lay_out(paths: Sequence[Path]) -> Cut:
    number = {path: i for i, path in enumerate(paths)} | {(): -1}
    depth = np.array([len(path) for path in paths], dtype=np.int64)
    return Cut(
        parents=as_ids([number[path[:-1]] for path in paths]),
        ranks=as_ids([path[-1] for path in paths]),
        levels=tuple(np.flatnonzero(depth == d) for d in range(1, depth.max(initial=0) + 1)),
        codes=tuple(_code(path) for path in ((), *paths)),
    )


def _code(path: Path) -> int:
    """Return a number that is unique for each path of ranks below 64."""
    code = 0
    for rank in path:
        code = code * 65 + rank + 1
    return code


CHANCES = (0.55, 0.1, 0.05, 0.03, 0.02, 0.015, 0.01, 0.01)
"""Prior chance that the token of each rank is right, which orders nodes without measurements: about
the values of Token Recycling on the texts of the benchmark, greedy and sampled."""

_RECYCLING_CHILDREN: dict[Path, tuple[int, ...]] = {
    # for each node: the numbers of children of its children, by rank
    (): (8, 4, 3, 2, 1, 1, 1, 1),
    (0,): (8, 3, 2, 1, 1, 1, 1, 1),
    (1,): (2, 1),
    (2,): (1,),
    (3,): (1,),
    (4,): (1,),
    (5,): (1,),
    (0, 0): (5, 2, 1, 1, 1),
    (0, 1): (1,),
    (0, 2): (1,),
    (1, 0): (1,),
    (2, 0): (1,),
    (3, 0): (1,),
    (0, 0, 0): (3, 1, 1),
    (0, 0, 1): (1,),
    (0, 1, 0): (1,),
    (1, 0, 0): (1,),
    (0, 0, 0, 0): (2,),
    (0, 0, 0, 1): (1,),
}


def recycling_template() -> Template:
    """Return Token Recycling's published tree: 80 nodes, 8/21/25/15/8/3 on its six levels."""
    counts: dict[Path, int] = {(): 8}
    for path, numbers in _RECYCLING_CHILDREN.items():
        counts |= {(*path, rank): number for rank, number in enumerate(numbers)}
    return from_counts(counts, CHANCES)


def template_reach(template: Template, nodes: int) -> tuple[float, ...]:
    """Return the chance that each node of a template is kept: a product of chances by rank.

    Args:
        template: the shape.
        nodes: how many of its nodes, from the first.
    """
    chances = [float(np.prod([CHANCES[rank] for rank in path])) for path in template.paths]
    return tuple(chances[:nodes])
