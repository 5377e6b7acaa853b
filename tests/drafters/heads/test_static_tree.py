"""The static tree of Medusa: a greedy search over the accuracies of heads and ranks."""

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from outrider.core.errors import OptionError
from outrider.drafters.heads.static_tree import (
    assumed_accuracies,
    chain_tree,
    greedy_tree,
    reach_of,
)
from outrider.drafters.statistics.template import Path

pytestmark = pytest.mark.method("medusa")

ACCURACIES = np.array([[0.5, 0.2, 0.1], [0.4, 0.15, 0.05], [0.3, 0.1, 0.02]])


def chance(path: Path, accuracies: Any = ACCURACIES) -> float:
    return float(np.prod([accuracies[place][rank] for place, rank in enumerate(path)]))


def trees(nodes: int) -> Iterator[tuple[Path, ...]]:
    """Every tree of so many nodes over three heads of three ranks, from the first ranks on."""
    every = [path for size in (1, 2, 3) for path in product(range(3), repeat=size)]
    for some in combinations(every, nodes):
        known = {(), *some}
        elder = all(path[-1] == 0 or (*path[:-1], path[-1] - 1) in known for path in some)
        if elder and all(path[:-1] in known for path in some):
            yield some


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_no_tree_of_its_size_expects_more(nodes: int) -> None:
    """By brute force; the expected tokens of a round are 1 and the sum of the nodes' chances."""
    best = max(sum(map(chance, tree)) for tree in trees(nodes))
    found = greedy_tree(ACCURACIES, nodes)
    assert len(found) == nodes
    assert sum(map(chance, found.paths)) == pytest.approx(best)


def test_expected_tokens_grow_with_nodes_and_trees_contain_smaller_ones() -> None:
    rng = np.random.default_rng(0)
    accuracies = -np.sort(-rng.uniform(0.01, 0.3, (4, 10)), axis=1)
    whole = greedy_tree(accuracies, 64)
    reach = reach_of(whole, accuracies)
    assert len(whole) == 64 and list(reach) == sorted(reach, reverse=True)
    assert reach[5] == pytest.approx(chance(whole.paths[5], accuracies))
    for nodes in (1, 2, 7, 30):
        assert greedy_tree(accuracies, nodes).paths == whole.paths[:nodes]
    assert whole.depth <= 4 and whole.width <= 10


def test_a_rank_that_is_better_than_the_one_before_it_counts_as_that_one() -> None:
    """Siblings must come in their order."""
    found = greedy_tree(np.array([[0.3, 0.1, 0.4]]), 3)
    assert found.paths == ((0,), (1,), (2,))
    assert reach_of(found, np.array([[0.3, 0.1, 0.4]])) == (0.3, 0.1, 0.1)


def test_nodes_without_a_chance_are_left_out() -> None:
    assert greedy_tree(np.array([[0.5, 0.0], [0.0, 0.0]]), 10).paths == ((0,),)


def test_heads_that_were_not_measured() -> None:
    found = greedy_tree(assumed_accuracies(3), 20)
    assert found.depth == 3 and len(found) == 20
    assert chain_tree(3).paths == ((0,), (0, 0), (0, 0, 0))
    assert reach_of(chain_tree(4), ACCURACIES)[3] == 0.0


@pytest.mark.parametrize(
    ("accuracies", "nodes"),
    [
        (ACCURACIES, 0),
        (np.zeros((0, 3)), 4),
        (np.zeros(3), 4),
        (ACCURACIES * np.nan, 4),
        (ACCURACIES + 1, 4),
        (-ACCURACIES, 4),
    ],
)
def test_bad_input_gives_one_line(accuracies: Any, nodes: int) -> None:
    with pytest.raises(OptionError) as caught:
        greedy_tree(accuracies, nodes)
    assert "chances of heads and ranks" in str(caught.value) and "\n" not in str(caught.value)
