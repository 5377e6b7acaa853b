"""How trees grow, against plain twins: DySpec's order, EAGLE-2's ranking, RSD-S's law."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from outrider.drafters.growth import (
    DySpec,
    DySpecLevels,
    Eagle2,
    Growth,
    IidTree,
    Outlook,
    Picking,
    Plot,
    RsdC,
    RsdS,
    Spine,
    TopK,
    grow_all,
)
from outrider.drafters.growth.rsd import shifted
from outrider.errors import OptionError
from outrider.sampling import Sampler, SamplingParams
from outrider.types import Draft, Draw
from outrider.warps import Support

VOCAB = 4
GROWTHS: dict[str, Growth] = {
    "top_k": TopK((3, 2, 2)),
    "eagle2": Eagle2(width=3),
    "dyspec": DySpec(),
    "dyspec_levels": DySpecLevels(),
    "dyspec_at": DySpecLevels(threshold=0.1),
    "rsd_c": RsdC((3, 2, 2)),
    "rsd_s": RsdS(3),
    "iid": IidTree(3),
    "spine": Spine(widths=(1, 2, 3, 3), sampled=(1, 2, 3, 3)),
}


@dataclass
class Memory:
    """A memory of probabilities: the next token follows from the last one and the depth alone."""

    table: np.ndarray
    plots: Sequence[Plot]
    breadth: int = VOCAB
    readings: int = 0
    rows: int = 0

    def scores(self, plot: Plot, node: int) -> np.ndarray:
        last = plot.tokens[node] if node >= 0 else 0
        return self.table[plot.depth_of(node) % len(self.table), last]

    def __call__(self, asked: Sequence[tuple[int, Sequence[int]]]) -> list[list[Outlook | None]]:
        self.readings += 1
        self.rows += sum(len(nodes) for _, nodes in asked)
        return [[self.outlook(self.plots[i], n) for n in nodes] for i, nodes in asked]

    def outlook(self, plot: Plot, node: int) -> Outlook:
        scores = torch.from_numpy(self.scores(plot, node))
        support = Support(torch.arange(VOCAB), scores)
        return Outlook.of(support, plot.picking, key=plot.key(node), most=self.breadth)


def tables(seed: int, scale: float = 1.5) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((3, VOCAB, VOCAB))


def plot(picking: Picking, *, depth: int = 4, nodes: int = 12, sample: int = 0, **options) -> Plot:
    sampler = Sampler(SamplingParams(temperature=1.0, seed=1), sample=sample, **options)
    return Plot(sampler=sampler, generated=[1, 2], depth=depth, nodes=nodes, picking=picking)


def grown(growth: Growth, plots: list[Plot], table: np.ndarray) -> Memory:
    memory = Memory(table, plots, breadth=min(growth.breadth, VOCAB))
    grow_all(growth, plots, memory)
    return memory


def drafted(own: Plot, draw: Draw = Draw.DETERMINISTIC, laws: bool = False) -> Draft:
    return own.draft("memory", origin="memory", draw=draw, laws=laws)


PICKINGS = st.sampled_from(list(Picking))


@given(st.sampled_from(list(GROWTHS)), PICKINGS, st.integers(0, 30), st.integers(1, 14))
def test_every_first_part_of_a_draft_is_a_draft(
    name: str, picking: Picking, seed: int, nodes: int
) -> None:
    """Nodes stand in the order of their promise, after their parents and elder siblings."""
    own = plot(picking, nodes=nodes, sample=seed)
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
    many = [plot(picking, depth=d, nodes=n, sample=i) for i, (d, n) in enumerate(shapes)]
    together = grown(GROWTHS[name], many, tables(seed))
    readings = []
    for i, (d, n) in enumerate(shapes):
        own = plot(picking, depth=d, nodes=n, sample=i)
        readings.append(grown(GROWTHS[name], [own], tables(seed)).readings)
        assert own.tokens == many[i].tokens and own.parents == many[i].parents
    assert together.readings == max(readings)
    assert not len(many[2])


@given(st.sampled_from(list(GROWTHS)), PICKINGS, st.integers(0, 20))
def test_nothing_grows_under_an_end_token_or_below_the_depth(
    name: str, picking: Picking, seed: int
) -> None:
    own = plot(picking, depth=3, nodes=20, sample=seed, end_ids=(1,))
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
    together = Outlook.of_rows(
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
        alone = Outlook.of(support, picking, key=keys[row], most=most, spread=spread)
        many = together[row]
        assert many is not None and many.tokens.tolist() == alone.tokens.tolist()
        for part in ("logs", "keys", "chances", "spent"):
            assert np.allclose(getattr(many, part), getattr(alone, part), atol=1e-12)


# -- EAGLE-2 ------------------------------------------------------------------------------------


def eagle2_twin(table: np.ndarray, own: Plot, width: int, depth: int) -> list[tuple[int, ...]]:
    """Expand the best `width` of each level in full, then sort all nodes ever made."""
    memory = Memory(table, [own])

    def children(path: tuple[int, ...]) -> dict[tuple[int, ...], float]:
        last = path[-1] if path else 0
        scores = torch.from_numpy(table[len(path) % len(table), last])
        key = eagle_key(own, path)
        look = Outlook.of(Support(torch.arange(VOCAB), scores), own.picking, key=key, most=VOCAB)
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


def eagle_key(own: Plot, path: tuple[int, ...]) -> int:
    """Coupled noise depends on the place in the text alone."""
    twin = plot(Picking.COUPLED, sample=own.sampler.sample)
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
    own = plot(picking, depth=4, nodes=nodes)
    grown(Eagle2(width=width), [own], table)
    found = [tuple(own.path(node)) for node in own.ranked()]
    assert found == eagle2_twin(table, own, width, 4)


# -- DySpec -------------------------------------------------------------------------------------


def dyspec_twin(own: Plot, table: np.ndarray) -> tuple[list[tuple[int, ...]], list[float]]:
    """The loop of the paper, without a heap: the best of all open places, drawn and reopened.

    `own` supplies the draws: the i-th child of a path is the i-th of its outlook.
    """
    memory = Memory(table, [own])
    lookup: dict[tuple[int, ...], Outlook] = {}

    def outlook(path: tuple[int, ...]) -> Outlook:
        if path not in lookup:
            twin = plot(own.picking, sample=own.sampler.sample)
            for depth, token in enumerate(path):
                twin.append(depth - 1, token, 1.0, 1.0)
            lookup[path] = memory.outlook(twin, len(path) - 1)
        return lookup[path]

    def law(path: tuple[int, ...]) -> np.ndarray:
        scores = table[len(path) % len(table), path[-1] if path else 0]
        return np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()

    places: list[tuple[float, tuple[int, ...], np.ndarray]] = [(1.0, (), law(()))]
    made: list[tuple[int, ...]] = []
    values: list[float] = []
    while places and len(made) < own.nodes:
        value, path, left = places.pop(int(np.argmax([v for v, _, _ in places])))
        rank = sum(other[:-1] == path for other in made)
        token = int(outlook(path).tokens[rank])
        child = (*path, token)
        made.append(child)
        values.append(value)
        chance = left[token]
        rest = left.copy()
        rest[token] = 0
        before = value
        if len(child) < own.depth:
            places.append((value * chance, child, law(child)))
        if rest.sum() > 1e-12:
            places.append((value * (1 - chance), path, rest / rest.sum()))
        assert value * chance + value * (1 - chance) == pytest.approx(before)
    return made, values


@given(st.integers(0, 300), st.integers(1, 14))
def test_dyspec_draws_in_the_papers_order(seed: int, nodes: int) -> None:
    table = tables(seed)
    own = plot(Picking.DRAWN, depth=4, nodes=nodes, sample=seed)
    memory = grown(DySpec(), [own], table)
    made, values = dyspec_twin(own, table)
    assert [tuple(own.path(node)) for node in range(len(own))] == made
    assert own.worth == pytest.approx(values)
    assert values == sorted(values, reverse=True)
    assert own.ranked() == list(range(len(made)))
    assert memory.rows <= nodes


@given(st.integers(0, 200), st.floats(0.02, 0.9))
def test_the_threshold_form_draws_every_place_worth_it(seed: int, threshold: float) -> None:
    """The same places as the heap, were it let run until none is worth the threshold."""
    table = tables(seed)
    level = plot(Picking.DRAWN, depth=4, nodes=500, sample=seed)
    memory = grown(DySpecLevels(threshold=threshold), [level], table)
    heap = plot(Picking.DRAWN, depth=4, nodes=500, sample=seed)
    grown(DySpec(), [heap], table)
    wanted = {tuple(heap.path(n)) for n in range(len(heap)) if heap.worth[n] >= threshold}
    assert {tuple(level.path(n)) for n in range(len(level))} == wanted
    assert memory.readings <= 4


@given(st.integers(0, 200))
def test_dyspec_without_noise_takes_the_likeliest(seed: int) -> None:
    """At temperature 0: sorted by q, and the best n by their chance of being kept."""
    table = tables(seed)
    own = plot(Picking.BEST, depth=3, nodes=9)
    grown(DySpec(), [own], table)
    best = plot(Picking.BEST, depth=3, nodes=9)
    grown(Eagle2(width=VOCAB * 9), [best], table)
    ranked = [[tuple(p.path(node)) for node in p.ranked()] for p in (own, best)]
    assert ranked[0] == ranked[1]


# -- drawing without replacement ------------------------------------------------------------------


def frequencies(
    growth: Growth, read: Callable[[Plot], tuple], samples: int, nodes: int = 20
) -> Counter[tuple]:
    table = tables(4, scale=1.0)
    plots = [plot(Picking.DRAWN, depth=2, nodes=nodes, sample=i) for i in range(samples)]
    grown(growth, plots, table)
    return Counter(read(own) for own in plots)


def first_two(own: Plot) -> tuple[int, ...]:
    return tuple(own.tokens[n] for n in range(len(own)) if own.parents[n] == -1)[:2]


def surplus(found: Counter[tuple], law: dict[tuple, float]) -> float:
    total = found.total()
    assert set(found) <= set(law)
    chi = sum((found[key] - total * p) ** 2 / (total * p) for key, p in law.items())
    return (chi - len(law) + 1) / np.sqrt(2 * (len(law) - 1))


def softmax(row: np.ndarray) -> np.ndarray:
    return np.exp(row) / np.exp(row).sum()


@pytest.mark.parametrize("growth", [RsdC((2, 1)), RsdS(3), DySpec()], ids=["c", "s", "dyspec"])
def test_siblings_are_a_sample_without_replacement(growth: Growth) -> None:
    """The joint law of the first two children of the text, in draw order."""
    q = softmax(tables(4, scale=1.0)[0, 0])
    law = {(a, b): q[a] * q[b] / (1 - q[a]) for a, b in itertools.permutations(range(VOCAB), 2)}
    assert surplus(frequencies(growth, first_two, 2000, nodes=6), law) < 4.0


def test_rsd_s_draws_whole_paths_without_replacement() -> None:
    """Kool et al.: the paths of the last level, by value, are a sample of the sequence law."""
    table = tables(4, scale=1.0)
    q = {
        (a, b): softmax(table[0, 0])[a] * softmax(table[1, a])[b]
        for a, b in itertools.product(range(VOCAB), repeat=2)
    }

    def first_path(own: Plot) -> tuple[int, ...]:
        leaves = [n for n in range(len(own)) if own.depths[n] == 2]
        return tuple(own.path(leaves[0]))

    assert surplus(frequencies(RsdS(3), first_path, 2000), q) < 4.0


@given(st.floats(-30, 5), st.floats(0, 40), st.floats(-20, 20))
def test_the_shifted_value_is_the_papers(largest: float, below: float, value: float) -> None:
    """-log(exp(-G) - exp(-Z) + exp(-g)), and never above G."""
    found = shifted(largest - below, largest, value)
    plain = np.exp(-value) - np.exp(-largest) + np.exp(below - largest)
    assert found <= value
    if plain > 1e-8 * max(np.exp(-value), np.exp(-largest)):
        assert found == pytest.approx(-np.log(plain), rel=1e-4, abs=1e-4)
    assert np.isfinite(found)
    assert shifted(largest, largest, value) == value


def test_continuations_are_independent_and_counted() -> None:
    q = softmax(tables(4, scale=1.0)[0, 0])

    def pair(own: Plot) -> tuple[int, ...]:
        said = {
            s: own.tokens[n] for n in range(len(own)) for s in own.samples[n] if own.depths[n] == 1
        }
        return said[0], said[1]

    law = {(a, b): q[a] * q[b] for a, b in itertools.product(range(VOCAB), repeat=2)}
    assert surplus(frequencies(IidTree(3), pair, 1500, nodes=6), law) < 4.0


@given(st.integers(0, 100))
def test_samples_split_among_the_children(seed: int) -> None:
    own = plot(Picking.DRAWN, depth=4, nodes=16, sample=seed)
    grown(IidTree(4), [own], tables(seed))
    draft = drafted(own, Draw.IID, laws=True)
    assert draft.samples is not None and len(draft) <= 16
    roots = [s for n in draft.children(-1) for s in draft.samples[n]]
    assert sorted(roots) == [0, 1, 2, 3]
    for node in range(len(draft)):
        below = [s for n in draft.children(node) for s in draft.samples[n]]
        assert sorted(below) in ([], sorted(draft.samples[node]))
    for parent in {-1, *range(len(draft))}:
        firsts = [draft.samples[n][0] for n in draft.children(parent)]
        assert firsts == sorted(firsts)


# -- budgets and mistakes -------------------------------------------------------------------------


def test_the_budget_of_independent_continuations_takes_depth_first() -> None:
    for nodes, count in ((2, 2), (7, 3), (12, 3)):
        own = plot(Picking.DRAWN, depth=4, nodes=nodes)
        grown(IidTree(3), [own], tables(0))
        assert max(own.depths) == min(nodes // count, 4)
        assert len({s for node in own.samples for s in node}) == count


@pytest.mark.parametrize("growth", [TopK((4, 4, 4)), RsdC((4, 4, 4)), RsdS(4), Eagle2(width=4)])
@pytest.mark.parametrize("picking", Picking)
def test_nodes_that_the_draft_is_cut_without_are_not_read(growth: Growth, picking: Picking) -> None:
    """More nodes than allowed are drawn at each level, and only the best of them are led on."""
    for seed in range(5):
        own = plot(picking, depth=3, nodes=4)
        assert grown(growth, [own], tables(seed)).rows <= 1 + 4 + 4
        free = plot(picking, depth=3, nodes=1000)
        grown(growth, [free], tables(seed))
        kept = drafted(own)
        assert kept.tokens.tolist() == drafted(free).tokens[:4].tolist()


@pytest.mark.parametrize("nodes", [0, -3])
def test_no_nodes_no_tree(nodes: int) -> None:
    own = plot(Picking.BEST, depth=0, nodes=nodes)
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
