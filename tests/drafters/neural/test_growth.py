"""What holds of every way to grow a tree, budgets and mistakes."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.drafters.neural.growth import (
    DySpec,
    DySpecLevels,
    Eagle2,
    Growth,
    IidTree,
    NextTokens,
    Picking,
    RsdC,
    RsdS,
    TopK,
)
from outrider.sampling.warps import Support
from tests.drafters.neural.growth_rigs import (
    GROWTHS,
    PICKINGS,
    VOCAB,
    builder,
    drafted,
    grown,
    tables,
)

pytestmark = [
    pytest.mark.method("top-k"),
    pytest.mark.method("eagle2"),
    pytest.mark.method("dyspec"),
    pytest.mark.method("dyspec-nodes"),
    pytest.mark.method("iid"),
]


@given(st.sampled_from(list(GROWTHS)), PICKINGS, st.integers(0, 30), st.integers(1, 14))
def test_every_first_part_of_a_draft_is_a_draft(
    name: str, picking: Picking, seed: int, nodes: int
) -> None:
    """Nodes stand in the order of their promise, after their parents and elder siblings."""
    own = builder(picking, nodes=nodes, sample=seed)
    grown(GROWTHS[name], [own], tables(seed))
    kept = own.ranked()
    draft = drafted(own)
    assert 0 < len(draft) <= nodes
    assert all(parent < node for node, parent in enumerate(draft.parents))
    worths = [own.worth[node] for node in kept]
    assert worths == sorted(worths, reverse=True)
    for a, b in itertools.pairwise(n for n in kept if own.parents[n] == -1):
        assert a < b
    for node in kept:  # ancestor-closed, and no node worth more than its parent
        parent = own.parents[node]
        assert parent < 0 or (parent in kept and own.worth[parent] >= own.worth[node])
    for parent in {-1, *kept}:
        tokens = [own.tokens[n] for n in range(len(own)) if own.parents[n] == parent]
        assert len(set(tokens)) == len(tokens)


@given(st.sampled_from(list(GROWTHS)), PICKINGS, st.integers(0, 20))
def test_a_batch_is_no_different_from_one(name: str, picking: Picking, seed: int) -> None:
    """And one reading serves all: as many as the request that needs most."""
    shapes = [(4, 12), (2, 3), (0, 0), (1, 9), (3, 7)]
    many = [builder(picking, depth=d, nodes=n, sample=i) for i, (d, n) in enumerate(shapes)]
    together = grown(GROWTHS[name], many, tables(seed))
    readings = []
    for i, (d, n) in enumerate(shapes):
        own = builder(picking, depth=d, nodes=n, sample=i)
        readings.append(grown(GROWTHS[name], [own], tables(seed)).readings)
        assert own.tokens == many[i].tokens and own.parents == many[i].parents
    assert together.readings == max(readings)
    assert not len(many[2])


@given(st.sampled_from(list(GROWTHS)), PICKINGS, st.integers(0, 20))
def test_nothing_grows_under_an_end_token_or_below_the_depth(
    name: str, picking: Picking, seed: int
) -> None:
    own = builder(picking, depth=3, nodes=20, sample=seed, end_ids=(1,))
    grown(GROWTHS[name], [own], tables(seed))
    assert max(own.depths) <= 3
    assert all(parent < 0 or own.tokens[parent] != 1 for parent in own.parents)


@given(PICKINGS, st.integers(0, 50), st.sampled_from([0.5, 1.0, 2.0]), st.integers(1, 6))
def test_many_rows_at_once_are_no_different(
    picking: Picking, seed: int, spread: float, most: int
) -> None:
    rows = torch.from_numpy(tables(seed)[0])
    keys = [seed + row for row in range(len(rows))]
    rows[1, 2] = torch.nan
    together = NextTokens.of_rows(
        rows,
        picking,
        keys=keys,
        most=most,
        spread=spread,
        logits=rows,
        kept=[None] * len(rows),
    )
    assert together[1] is None
    for row in (0, 2, 3):
        support = Support(torch.arange(VOCAB), rows[row])
        alone = NextTokens.of(support, picking, key=keys[row], most=most, spread=spread)
        many = together[row]
        assert many is not None and many.tokens.tolist() == alone.tokens.tolist()
        for part in ("logs", "keys", "chances", "spent"):
            assert np.allclose(getattr(many, part), getattr(alone, part), atol=1e-12)


def test_the_budget_of_independent_continuations_takes_depth_first() -> None:
    for nodes, count in ((2, 2), (7, 3), (12, 3)):
        own = builder(Picking.DRAWN, depth=4, nodes=nodes)
        grown(IidTree(3), [own], tables(0))
        assert max(own.depths) == min(nodes // count, 4)
        assert len({s for node in own.samples for s in node}) == count


@pytest.mark.parametrize("growth", [TopK((4, 4, 4)), RsdC((4, 4, 4)), RsdS(4), Eagle2(width=4)])
@pytest.mark.parametrize("picking", Picking)
def test_nodes_that_the_draft_is_cut_without_are_not_read(growth: Growth, picking: Picking) -> None:
    """More nodes than allowed are drawn at each level, and only the best of them are led on."""
    for seed in range(5):
        own = builder(picking, depth=3, nodes=4)
        assert grown(growth, [own], tables(seed)).rows <= 1 + 4 + 4
        free = builder(picking, depth=3, nodes=1000)
        grown(growth, [free], tables(seed))
        kept = drafted(own)
        assert kept.tokens.tolist() == drafted(free).tokens[:4].tolist()


@pytest.mark.parametrize("nodes", [0, -3])
def test_no_nodes_no_tree(nodes: int) -> None:
    own = builder(Picking.BEST, depth=0, nodes=nodes)
    assert grown(DySpec(), [own], tables(0)).readings == 0
    assert not len(drafted(own))


@pytest.mark.parametrize(
    "make",
    [
        lambda: TopK(()),
        lambda: TopK((2, 0)),
        lambda: RsdC((0,)),
        lambda: RsdS(0),
        lambda: Eagle2(width=0),
        lambda: DySpecLevels(threshold=0.0),
        lambda: DySpecLevels(threshold=1.5),
        lambda: IidTree(0),
        lambda: IidTree(2, depth=0),
    ],
)
def test_wrong_shapes_are_refused(make: Callable[[], Growth]) -> None:
    with pytest.raises(OptionError):
        make()
