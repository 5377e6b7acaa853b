"""Trees of the most frequent continuations, grown best first.

The relative frequency of a path is the product of the relative frequencies along it, which equals
its own count over the count of the root. The nodes of highest probability (SuffixDecoding, arXiv
2411.04975) and the most frequent prefixes of the retrieved continuations (REST, arXiv 2311.08252)
are therefore the same choice: always take the most frequent node next.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TypeVar

Node = TypeVar("Node")
Followers = Callable[[Node], Iterable[tuple[int, int, Node]]]
"""Yields `(token, count, node)` for each follower of a node; no count exceeds the node's own."""


@dataclass(slots=True)
class Grown:
    """A tree in the order in which it was grown: counts never increase, parents precede children.

    Attributes:
        tokens: of each node.
        parents: of each node, -1 for followers of the root.
        counts: of each node.
        total: the root's count.
    """

    total: int
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Expected number of accepted nodes: the sum of the chances of all nodes."""
        return sum(self.counts) / self.total if self.total else 0.0


def grow_tree(
    root: Node,
    total: int,
    followers: Followers[Node],
    *,
    nodes: int,
    depth: int,
    least: float = 0.0,
    ends: Collection[int] = (),
) -> Grown:
    """Return the `nodes` most frequent nodes below `root`; among ties the shallower, then the
    earlier.

    Args:
        root: the node to start from.
        total: how often it occurs.
        followers: returns the children of a node; called once for every node taken.
        nodes: largest number of nodes.
        depth: largest number of nodes on a path.
        least: the smallest share of `total` that a node may have.
        ends: tokens after which no node is added.
    """
    grown = Grown(total)
    heap: list[tuple[int, int, int, int, int, Node]] = []
    serial, least_count = 0, least * total

    def push(node: Node, parent: int, level: int) -> None:
        nonlocal serial
        for token, count, child in followers(node):
            if count and count >= least_count:
                serial += 1
                heappush(heap, (-count, level, serial, parent, token, child))

    if nodes > 0 and depth > 0:
        push(root, -1, 1)
    while heap and len(grown.tokens) < nodes:
        count, level, _, parent, token, node = heappop(heap)
        grown.tokens.append(token)
        grown.parents.append(parent)
        grown.counts.append(-count)
        if level < depth and len(grown.tokens) < nodes and token not in ends:
            push(node, len(grown.tokens) - 1, level + 1)
    return grown


def grow_chain(
    root: Node,
    total: int,
    followers: Followers[Node],
    *,
    size: int,
    least: float = 0.0,
    ends: Collection[int] = (),
) -> Grown:
    """Return the path that always takes the most frequent follower; arguments as for
    `grow_tree`.
    """
    grown, node = Grown(total), root
    while len(grown.tokens) < size:
        best = max(followers(node), key=lambda child: child[1], default=None)
        if best is None or not best[1] or best[1] < least * total:
            break
        token, count, node = best
        grown.parents.append(len(grown.tokens) - 1)
        grown.tokens.append(token)
        grown.counts.append(count)
        if token in ends:
            break
    return grown
