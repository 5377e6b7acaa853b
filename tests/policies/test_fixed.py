"""Policies of one size."""

import pytest

from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.policies import FixedLength, FixedTree

pytestmark = [pytest.mark.method("fixed"), pytest.mark.method("fixed-tree")]


@pytest.mark.parametrize("rounds", [0, 7])
def test_the_budget_does_not_depend_on_the_past(rounds: int) -> None:
    counters = Counters()
    counters.rounds, counters.accepted = rounds, 3 * rounds
    chain = FixedLength(4).budget(counters, batch=3)
    assert (chain.depth, chain.nodes) == (4, 4)
    tree = FixedTree(depth=3, nodes=9).budget(counters)
    assert (tree.depth, tree.nodes) == (3, 9)
    assert not FixedLength(4).adaptive and not FixedTree().adaptive


def test_sizes_out_of_range() -> None:
    with pytest.raises(OptionError, match="num_speculative_tokens is 0"):
        FixedLength(0)
    with pytest.raises(OptionError, match="1 <= depth <= nodes"):
        FixedTree(depth=5, nodes=4)
