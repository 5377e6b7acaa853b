"""Draft trees as parent arrays: depth, ancestry and paths.

A tree is an integer array `parents`, with parents before children; -1 is the root (the text).
"""

from collections.abc import Sequence

import numpy as np

from outrider.core.types import BoolArray, IntArray


def chain_parents(length: int, root: int = -1) -> IntArray:
    """Return the parents of a chain of `length` nodes whose first node is a child of `root`."""
    parents = np.arange(-1, length - 1, dtype=np.int64)
    if length:
        parents[0] = root
    return parents


def is_chain(parents: IntArray) -> bool:
    """Whether every node is the only child of the previous node."""
    return bool(np.array_equal(parents, np.arange(-1, len(parents) - 1)))


def check_parents(parents: IntArray, *, first: int = 0) -> None:
    """Raise `ValueError` unless the parent of node `first + i` is an earlier node or -1."""
    numbers = first + np.arange(len(parents))
    if np.any(parents < -1) or np.any(parents >= numbers):
        raise ValueError(f"parents must point to earlier nodes or -1, got {parents.tolist()}")


def depths(parents: IntArray) -> IntArray:
    """Return the depth of each node; a child of -1 has depth 0."""
    depth: list[int] = []
    for parent in parents.tolist():  # iterating over a list is faster than over an array
        depth.append(depth[parent] + 1 if parent >= 0 else 0)
    return np.array(depth, dtype=np.int64)


def ancestor_mask(parents: IntArray) -> BoolArray:
    """Return `[nodes, nodes]`, true at `[i, j]` when j is i itself or an ancestor of i."""
    mask = np.zeros((len(parents), len(parents)), dtype=np.bool_)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] = mask[parent]
        mask[node, node] = True
    return mask


def visible_rows(tree: IntArray, first: int, both: IntArray | None = None) -> BoolArray:
    """Return the speculative slots visible to the rows from `first` on: ancestors, and to the rows
    `both` all of them. Rows below 0 are those of the text, to which none is visible."""
    seen = ancestor_mask(tree)
    if both is not None:
        seen[np.ix_(both, both)] = True
    rows = seen[max(first, 0) :]
    return np.concatenate((np.zeros((max(-first, 0), len(tree)), dtype=np.bool_), rows))


def path_to(parents: IntArray, node: int) -> list[int]:
    """Return the nodes from the root's child down to `node`; empty for -1."""
    path: list[int] = []
    while node >= 0:
        path.append(node)
        node = int(parents[node])
    return path[::-1]


def matched(
    tokens: Sequence[int], parents: Sequence[int], wanted: Sequence[int] | IntArray
) -> list[int]:
    """Return the nodes from the root on that match the longest beginning of `wanted`.

    Args:
        tokens: the token of each node; parents come before their children.
        parents: the parent of each node; -1 is the root.
        wanted: the tokens to match.
    """
    path: list[int] = []
    node = -1
    for token in wanted:
        node = _child(tokens, parents, node, int(token))
        if node < 0:
            break
        path.append(node)
    return path


def _child(tokens: Sequence[int], parents: Sequence[int], parent: int, token: int) -> int:
    for node in range(parent + 1, len(tokens)):
        if parents[node] == parent and tokens[node] == token:
            return node
    return -1
