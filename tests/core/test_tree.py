"""Trees as parent arrays, against the definitions spelled out with sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.tree import (
    ancestor_mask,
    chain_parents,
    check_parents,
    depths,
    is_chain,
    path_to,
)
from outrider.core.types import IntArray, as_ids


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 12) -> IntArray:
    size = draw(st.integers(0, max_nodes))
    parents = [draw(st.integers(-1, node - 1)) for node in range(size)]
    return np.array(parents, dtype=np.int64)  # not `as_ids`: a checked call rolls dice


@given(parents=trees())
def test_paths_depths_and_ancestors_agree(parents: IntArray) -> None:
    check_parents(parents)
    depth, mask = depths(parents), ancestor_mask(parents)
    assert mask.shape == (len(parents), len(parents))
    for node, parent in enumerate(parents):
        path = path_to(parents, node)
        assert path[-1] == node and path == sorted(path)
        assert path[:-1] == path_to(parents, int(parent))
        assert depth[node] == len(path) - 1
        assert np.flatnonzero(mask[node]).tolist() == path


def test_small_ones_by_hand() -> None:
    parents = as_ids([-1, -1, 0, 0, 2, 1])
    assert depths(parents).tolist() == [0, 0, 1, 1, 2, 1]
    assert path_to(parents, 4) == [0, 2, 4]
    assert path_to(parents, -1) == []
    assert ancestor_mask(parents)[4].tolist() == [True, False, True, False, True, False]
    assert ancestor_mask(as_ids(())).shape == (0, 0)


@pytest.mark.parametrize("root", [-1, 3])
def test_chains(root: int) -> None:
    assert chain_parents(0, root).tolist() == []
    assert chain_parents(1, root).tolist() == [root]
    assert chain_parents(3, root).tolist() == [root, 0, 1]
    assert chain_parents(3).dtype == np.int64


@given(parents=trees())
def test_a_chain_is_a_tree_in_which_each_node_follows_the_last(parents: IntArray) -> None:
    assert is_chain(parents) == np.array_equal(depths(parents), np.arange(len(parents)))
    assert is_chain(chain_parents(len(parents)))


@pytest.mark.parametrize("bad", [[0], [-2], [-1, 1], [-1, 0, 5]])
def test_parents_that_come_later_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="earlier nodes"):
        check_parents(as_ids(bad))


def test_numbering_may_go_on_from_earlier_nodes() -> None:
    check_parents(as_ids([4, 5, -1]), first=5)
    with pytest.raises(ValueError):
        check_parents(as_ids([5]), first=5)
