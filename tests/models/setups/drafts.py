"""Draft trees that the tests of runners and caches read."""

import numpy as np

from outrider.core.tree import path_to
from outrider.core.types import Draft, IntArray, as_ids

TREE_PARENTS = as_ids([-1, -1, 0, 0, 1, 2, 2, -1, 5, 4, 8, 10, 11])
TREE_TOKENS = as_ids([11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23])
"""Its longest path, seven nodes, is longer than the windows of the tested models."""


def random_draft(rng: np.random.Generator, vocab_size: int) -> Draft:
    """A tree of up to 8 nodes whose siblings may repeat a token."""
    count = int(rng.integers(0, 9))
    parents = as_ids([int(rng.integers(-1, node)) if node else -1 for node in range(count)])
    tokens = rng.integers(0, min(vocab_size, 6), count)
    return Draft(tokens=tokens, parents=parents, sources=("draft",) * count)


def random_emission(rng: np.random.Generator, draft: Draft) -> IntArray:
    """Part of a path of the draft, and then, mostly, tokens from elsewhere."""
    node = int(rng.integers(-1, len(draft)))
    accepted = draft.tokens[path_to(draft.parents, node)]
    return np.concatenate((accepted, rng.integers(0, 9, int(rng.integers(0, 3)))))
