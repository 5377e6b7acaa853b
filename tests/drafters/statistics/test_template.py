import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.tree import depths
from outrider.core.types import Draft, as_ids
from outrider.drafters.statistics.template import Template, from_counts, recycling_template
from outrider.drafters.statistics.tree_statistics import (
    TreeStatistics,
    best_size,
    expected_tokens,
    optimise_template,
)
from outrider.policies import CostSurface

pytestmark = pytest.mark.method("recorded")

CHANCES = (0.5, 0.2, 0.1)


def test_template_node_counts() -> None:
    """The published tree "2.2.2": 80 nodes on six levels, 40 leaves."""
    template = recycling_template()
    levels = Counter(len(path) for path in template.paths)
    assert [levels[d] for d in range(1, 7)] == [8, 21, 25, 15, 8, 3]
    assert len(template) == 80 and template.depth == 6
    parents = {path[:-1] for path in template.paths}
    assert sum(path not in parents for path in template.paths) == 40


def test_every_prefix_is_a_tree_and_the_best_by_its_chances() -> None:
    template = recycling_template()
    for nodes in range(1, 81):
        Template(template.paths[:nodes])  # raises for a node before its parent or elder sibling
        cut = template.cut(nodes, 6)
        assert len(cut) == nodes and (cut.parents < np.arange(nodes)).all()
    assert template.paths[:3] == ((0,), (0, 0), (0, 0, 0))


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 9])
def test_a_cut_is_no_deeper_than_asked(depth: int) -> None:
    template = recycling_template()
    for nodes in (1, 5, 17, 80, 200):
        cut = template.cut(nodes, depth)
        kept = [p for p in template.paths if len(p) <= depth][:nodes]
        assert len(cut) == len(kept)
        assert depths(cut.parents).tolist() == [len(p) - 1 for p in kept]
        assert cut.ranks.tolist() == [p[-1] for p in kept]
        assert sorted(np.concatenate(cut.levels).tolist()) == list(range(len(cut)))
        numbered = [c for children in cut.children for c in children]
        assert sorted(numbered) == list(range(len(cut)))
        assert len(set(cut.codes)) == len(cut) + 1


def test_codes_name_paths_whatever_is_cut_away() -> None:
    template = recycling_template()
    whole, shallow = template.cut(80, 6), template.cut(80, 2)
    names = dict(zip([(), *template.paths], whole.codes, strict=True))
    kept = [p for p in template.paths if len(p) <= 2]
    assert [names[p] for p in [(), *kept]] == list(shallow.codes)


@pytest.mark.parametrize(
    "paths", [((1,),), ((0, 0), (0,)), ((0,), (0,)), ((0,), (0, 1), (0, 0)), ((),)]
)
def test_a_template_out_of_order_is_refused(paths: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(OptionError, match="path"):
        Template(paths)


def test_save_and_load(tmp_path: Path) -> None:
    template, statistics = recycling_template(), simulated((0.6, 0.2), 200)
    template.save(tmp_path / "shape.json")
    statistics.save(tmp_path / "counts.json")
    assert Template.load(tmp_path / "shape.json") == template
    assert TreeStatistics.load(tmp_path / "counts.json") == statistics
    for load in (Template.load, TreeStatistics.load):
        with pytest.raises(OptionError, match="holds no"):
            load(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text('{"paths": [[1]], "nodes": 3}')
    for load in (Template.load, TreeStatistics.load):
        with pytest.raises(OptionError):
            load(tmp_path / "broken.json")


def simulated(chances: tuple[float, ...], drafts: int, depth: int = 3) -> TreeStatistics:
    """Counts of a full tree whose children are right with these chances."""
    ranks = range(len(chances))
    counts = {p: len(chances) for d in range(depth) for p in itertools.product(ranks, repeat=d)}
    shape = from_counts(counts, chances)
    cut = shape.cut(1000, depth)
    draft = Draft(tokens=as_ids(range(len(cut))), parents=cut.parents, sources=("x",) * len(cut))
    number = {path: i for i, path in enumerate(shape.paths)}
    rng, statistics = np.random.default_rng(0), TreeStatistics()
    for _ in range(drafts):
        path: tuple[int, ...] = ()
        accepted: list[int] = []
        while len(path) < depth:
            rank = int(np.searchsorted(np.cumsum(chances), rng.random()))
            if rank >= len(chances):
                break
            path = (*path, rank)
            accepted.append(number[path])
        statistics.note(draft, accepted)
    return statistics


def test_recorded_chances_are_those_of_the_drafts() -> None:
    statistics = simulated((0.6, 0.2, 0.1), 4000)
    assert statistics.chance((0,)) == pytest.approx(0.6, abs=0.03)
    assert statistics.chance((1,)) == pytest.approx(0.2, abs=0.03)
    assert statistics.chance((0, 0)) == pytest.approx(0.36, abs=0.03)
    assert statistics.chance((0, 1, 0)) == pytest.approx(0.072, abs=0.02)
    assert statistics.chance((7,)) == 0.0


def closed_sets(paths: list[tuple[int, ...]], size: int):
    for chosen in itertools.combinations(paths, size):
        inside = set(chosen) | {()}
        if all(p[:-1] in inside and (not p[-1] or (*p[:-1], p[-1] - 1) in inside) for p in chosen):
            yield chosen


def worth(paths, statistics: TreeStatistics) -> float:
    return sum(statistics.chance(p) for p in paths)


@pytest.mark.parametrize("chances", [(0.6, 0.2), (0.4, 0.3), (0.5, 0.2, 0.1)])
def test_optimiser_equals_brute_force(chances: tuple[float, ...]) -> None:
    """Every size, where elder siblings are the luckier ones."""
    statistics = simulated(chances, 3000, depth=2)
    every = sorted(statistics.trials)
    for size in range(1, len(every) + 1):
        found = optimise_template(statistics, size).paths
        best = max(worth(s, statistics) for s in closed_sets(every, size))
        assert worth(found, statistics) == pytest.approx(best)


@given(hits=st.lists(st.integers(0, 20), min_size=12, max_size=12))
def test_optimiser_equals_brute_force_at_whole_blocks(hits: list[int]) -> None:
    """Any counts: younger siblings may be luckier. The worth of n nodes lies on the concave hull
    of what brute force finds wherever the hull has a corner, and is never above it."""
    nodes = [(r,) for r in range(3)] + [(r, s) for r in range(3) for s in range(3)]
    statistics = TreeStatistics(dict.fromkeys(nodes, 20), dict(zip(nodes, hits, strict=True)))
    if not any(statistics.chance((r,)) for r in range(3)):
        return
    best = [0.0] + [max(worth(s, statistics) for s in closed_sets(nodes, n)) for n in range(1, 13)]
    ordered = optimise_template(statistics, 12).paths
    found = [worth(ordered[:n], statistics) for n in range(len(ordered) + 1)]
    assert all(f <= b + 1e-9 for f, b in zip(found, best, strict=False))
    for n in range(len(found)):
        left = [(best[n] - best[m]) / (n - m) for m in range(n)]
        right = [(best[m] - best[n]) / (m - n) for m in range(n + 1, 13)]
        if min(left, default=9.0) > max(right, default=-9.0) + 1e-9:  # a corner
            assert found[n] == pytest.approx(best[n])


def test_the_size_is_that_of_most_tokens_a_second() -> None:
    statistics = simulated((0.6, 0.2, 0.1), 3000)
    template = optimise_template(statistics, 39)
    promised = expected_tokens(template, statistics)
    assert promised[0] == 1.0 and promised == sorted(promised)
    free, dear = CostSurface.of({1: 1.0, 40: 1.001}), CostSurface.of({1: 1.0, 40: 40.0})
    some = CostSurface.of({1: 1.0, 4: 1.1, 8: 1.5, 40: 6.0})
    assert best_size(template, statistics, free) >= 30
    assert best_size(template, statistics, dear) == 0
    chosen = best_size(template, statistics, some)
    rates = [t / some.seconds(n + 1) for n, t in enumerate(promised)]
    assert chosen == int(np.argmax(rates)) and 2 < chosen < 12
    assert best_size(template, statistics, some, draft_seconds=0.5) > chosen
    assert best_size(template, statistics, some, draft_seconds=10.0) == 0


def test_nothing_to_optimise() -> None:
    with pytest.raises(OptionError, match="ever accepted"):
        optimise_template(TreeStatistics(), 10)
