"""The candidate policy of Clover (arXiv 2405.00263) against its rules and a plain twin."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.drafters.neural.growth import (
    Clover,
    Growth,
    NextTokens,
    Picking,
    TreeBuilder,
    grow_all,
)
from outrider.sampling.warps import Support
from tests.drafters.neural.growth_rigs import Memory, builder, drafted, grown, tables

pytestmark = pytest.mark.method("clover")

Path = tuple[int, ...]
FIGURE = {
    (): (0.5, 0.3, 0.1, 0.05, 0.05),
    (0,): (0.8, 0.1, 0.06, 0.03, 0.01),
    (1,): (0.3, 0.1, 0.3, 0.2, 0.1),
}
"""Probabilities of five tokens after some paths."""
SURE = (0.96, 0.01, 0.01, 0.01, 0.01)


class Written:
    """Probabilities that are written down for each path, and `SURE` ones for all others."""

    def __init__(self, own: TreeBuilder, known: dict[Path, Sequence[float]]) -> None:
        self.own, self.known, self.levels = own, known, list[list[Path]]()

    def __call__(self, asked: Sequence[tuple[int, Sequence[int]]]) -> list[list[NextTokens | None]]:
        [(_, nodes)] = asked
        paths = [tuple(self.own.path(node)) for node in nodes]
        self.levels.append(paths)
        return [[self._following(path) for path in paths]]

    def _following(self, path: Path) -> NextTokens:
        scores = torch.tensor(self.known.get(path, SURE)).double().log()
        return NextTokens.of(Support(torch.arange(5), scores), Picking.BEST, key=0, most=5)


def tree(growth: Growth, nodes: int, known: dict[Path, Sequence[float]]) -> set[Path]:
    own = builder(Picking.BEST, nodes=nodes, depth=6)
    grow_all(growth, [own], Written(own, known))
    return {tuple(own.path(node)) for node in range(len(own))}


def test_the_example_of_the_authors() -> None:
    """Four tokens, top-p 0.8: two on the first level, then the two best of the next one."""
    found = tree(Clover(top_p=0.81, least=0.0), 4, FIGURE)
    assert found == {(0,), (1,), (0, 0), (1, 0)}


def test_a_sure_level_costs_one_node() -> None:
    """The budget goes into depth."""
    assert tree(Clover(), 4, {}) == {(0,), (0, 0), (0, 0, 0), (0, 0, 0, 0)}


def test_candidates_end_at_the_cumulative_probability() -> None:
    even = {(): (0.24, 0.22, 0.2, 0.18, 0.16)}
    for top_p, count in ((0.1, 1), (0.5, 2), (0.7, 3), (0.85, 4), (1.0, 5)):
        assert len([p for p in tree(Clover(top_p=top_p), 5, even) if len(p) == 1]) == count


def test_candidates_far_below_the_best_are_dropped() -> None:
    steep = {(): (0.6, 0.2, 0.14, 0.04, 0.02)}
    for least, count in ((0.25, 2), (0.22, 3), (0.05, 4), (0.0, 5)):
        growth = Clover(top_p=1.0, least=least)
        assert len([p for p in tree(growth, 5, steep) if len(p) == 1]) == count


def twin(table: np.ndarray, nodes: int, depth: int, growth: Clover) -> set[Path]:
    """The policy without a builder: joint probabilities of paths in a dictionary."""
    level: dict[Path, float] = {(): 1.0}
    kept: set[Path] = set()
    for place in range(depth):
        found: dict[Path, float] = {}
        for path, joint in level.items():
            scores = table[place % len(table), path[-1] if path else 0]
            probs = np.exp(scores - scores.max())
            probs /= probs.sum()
            total, best = 0.0, probs.max()
            for number, token in enumerate(np.argsort(-probs, kind="stable")):
                total += probs[token]
                if number and (total > growth.top_p or probs[token] < growth.least * best):
                    break
                found[(*path, int(token))] = joint * probs[token]
        left = nodes - len(kept)
        level = dict(sorted(found.items(), key=lambda item: -item[1])[:left])
        kept |= set(level)
    return kept


@given(st.integers(0, 200), st.integers(1, 14), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_budget_is_shared_out_level_by_level(seed: int, nodes: int, top_p: float) -> None:
    table, growth = tables(seed), Clover(top_p=top_p)
    own = builder(Picking.BEST, depth=4, nodes=nodes)
    memory: Memory = grown(growth, [own], table)
    found = {tuple(own.path(node)) for node in range(len(own))}
    assert found == twin(table, nodes, 4, growth)
    assert len(own) <= nodes and memory.readings <= 4
    draft = drafted(own)
    assert len(draft) == len(own) and all(p < n for n, p in enumerate(draft.parents))


@pytest.mark.parametrize(
    "options", [{"top_p": 0.0}, {"top_p": 1.1}, {"least": -0.1}, {"least": 1.1}, {"width": 0}]
)
def test_faulty_options(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Clover(**options)  # pyright: ignore[reportArgumentType]
