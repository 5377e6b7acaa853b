"""EAGLE-2 and DySpec against plain twins: what is read, in which order."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from outrider.drafters.neural.growth import (
    DySpec,
    DySpecLevels,
    Eagle2,
    NextTokens,
    Picking,
    TreeBuilder,
)
from outrider.sampling.warps import Support
from tests.drafters.neural.growth_rigs import VOCAB, Memory, builder, grown, tables

# -- EAGLE-2 ------------------------------------------------------------------------------------


def eagle2_twin(
    table: np.ndarray, own: TreeBuilder, width: int, depth: int
) -> list[tuple[int, ...]]:
    """Expand the best `width` of each level in full, then sort all nodes ever made."""
    memory = Memory(table, [own])

    def children(path: tuple[int, ...]) -> dict[tuple[int, ...], float]:
        last = path[-1] if path else 0
        scores = torch.from_numpy(table[len(path) % len(table), last])
        key = eagle_key(own, path)
        look = NextTokens.of(Support(torch.arange(VOCAB), scores), own.picking, key=key, most=VOCAB)
        logs = np.log(look.chances)
        return {(*path, int(t)): float(v) for t, v in zip(look.tokens, logs, strict=True)}

    assert memory.breadth == VOCAB
    level: dict[tuple[int, ...], float] = {(): 0.0}
    everything: dict[tuple[int, ...], float] = {}
    for _ in range(depth):
        found: dict[tuple[int, ...], float] = {}
        for path, score in level.items():
            best = sorted(children(path).items(), key=lambda item: -item[1])[:width]
            found |= {child: score + own_score for child, own_score in best}
        everything |= found
        level = dict(sorted(found.items(), key=lambda item: -item[1])[:width])
    return sorted(everything, key=lambda path: -everything[path])[: own.nodes]


def eagle_key(own: TreeBuilder, path: tuple[int, ...]) -> int:
    """Coupled noise depends on the place in the text alone."""
    twin = builder(Picking.COUPLED, sample=own.sampler.sample)
    for depth, token in enumerate(path):
        twin.append(depth - 1, token, 1.0, 1.0)
    return twin.key(len(path) - 1)


@given(
    st.integers(0, 200),
    st.integers(1, 4),
    st.integers(1, 14),
    st.sampled_from([Picking.BEST, Picking.COUPLED]),
)
@example(0, 2, 14, Picking.BEST)  # room for all nodes: those of other leaves would come in
def test_eagle2_keeps_the_best_of_all_nodes(
    seed: int, width: int, nodes: int, picking: Picking
) -> None:
    table = tables(seed)
    own = builder(picking, depth=4, nodes=nodes)
    grown(Eagle2(width=width), [own], table)
    found = [tuple(own.path(node)) for node in own.ranked()]
    assert found == eagle2_twin(table, own, width, 4)


# -- DySpec -------------------------------------------------------------------------------------


def dyspec_twin(own: TreeBuilder, table: np.ndarray) -> tuple[list[tuple[int, ...]], list[float]]:
    """The loop of the paper, without a heap: the best of all open places, drawn and reopened.

    `own` supplies the draws: the i-th child of a path is the i-th of its outlook.
    """
    memory = Memory(table, [own])
    lookup: dict[tuple[int, ...], NextTokens] = {}

    def following(path: tuple[int, ...]) -> NextTokens:
        if path not in lookup:
            twin = builder(own.picking, sample=own.sampler.sample)
            for depth, token in enumerate(path):
                twin.append(depth - 1, token, 1.0, 1.0)
            lookup[path] = memory.following(twin, len(path) - 1)
        return lookup[path]

    def probs(path: tuple[int, ...]) -> np.ndarray:
        scores = table[len(path) % len(table), path[-1] if path else 0]
        return np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()

    places: list[tuple[float, tuple[int, ...], np.ndarray]] = [(1.0, (), probs(()))]
    made: list[tuple[int, ...]] = []
    values: list[float] = []
    while places and len(made) < own.nodes:
        value, path, left = places.pop(int(np.argmax([v for v, _, _ in places])))
        rank = sum(other[:-1] == path for other in made)
        token = int(following(path).tokens[rank])
        child = (*path, token)
        made.append(child)
        values.append(value)
        chance = left[token]
        rest = left.copy()
        rest[token] = 0
        before = value
        if len(child) < own.depth:
            places.append((value * chance, child, probs(child)))
        if rest.sum() > 1e-12:
            places.append((value * (1 - chance), path, rest / rest.sum()))
        assert value * chance + value * (1 - chance) == pytest.approx(before)
    return made, values


@given(st.integers(0, 300), st.integers(1, 14))
def test_dyspec_draws_in_the_papers_order(seed: int, nodes: int) -> None:
    table = tables(seed)
    own = builder(Picking.DRAWN, depth=4, nodes=nodes, sample=seed)
    memory = grown(DySpec(), [own], table)
    made, values = dyspec_twin(own, table)
    assert [tuple(own.path(node)) for node in range(len(own))] == made
    assert own.worth == pytest.approx(values)
    assert values == sorted(values, reverse=True)
    assert own.ranked() == list(range(len(made)))
    assert memory.rows <= nodes


@pytest.mark.usefixtures("unchecked")
@given(st.integers(0, 200), st.floats(0.02, 0.9))
def test_the_threshold_form_draws_every_place_worth_it(seed: int, threshold: float) -> None:
    """The same places as the heap, were it let run until none is worth the threshold."""
    table = tables(seed)
    level = builder(Picking.DRAWN, depth=4, nodes=500, sample=seed)
    memory = grown(DySpecLevels(threshold=threshold), [level], table)
    heap = builder(Picking.DRAWN, depth=4, nodes=500, sample=seed)
    grown(DySpec(), [heap], table)
    wanted = {tuple(heap.path(n)) for n in range(len(heap)) if heap.worth[n] >= threshold}
    assert {tuple(level.path(n)) for n in range(len(level))} == wanted
    assert memory.readings <= 4


@given(st.integers(0, 200))
def test_dyspec_without_noise_takes_the_likeliest(seed: int) -> None:
    """At temperature 0: sorted by q, and the best n by their chance of being kept."""
    table = tables(seed)
    own = builder(Picking.BEST, depth=3, nodes=9)
    grown(DySpec(), [own], table)
    best = builder(Picking.BEST, depth=3, nodes=9)
    grown(Eagle2(width=VOCAB * 9), [best], table)
    ranked = [[tuple(p.path(node)) for node in p.ranked()] for p in (own, best)]
    assert ranked[0] == ranked[1]
