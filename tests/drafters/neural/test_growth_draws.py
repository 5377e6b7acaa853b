"""How siblings and continuations are drawn, against the distribution written down."""

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.types import Draw
from outrider.drafters.neural.growth import (
    DySpec,
    Growth,
    IidTree,
    Picking,
    RsdC,
    RsdS,
    TreeBuilder,
)
from outrider.drafters.neural.growth.rsd_s import shifted
from tests.drafters.neural.growth_rigs import (
    VOCAB,
    builder,
    drafted,
    grown,
    tables,
)

pytestmark = [
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.method("rsd-c"),
    pytest.mark.method("rsd-s"),
]


LENGTHS = [500, pytest.param(2000, marks=pytest.mark.slow)]
"""How many draws; the fewer ones are enough to tell draws with replacement from those without."""


def frequencies(
    growth: Growth, read: Callable[[TreeBuilder], tuple], samples: int, nodes: int = 20
) -> Counter[tuple]:
    table = tables(4, scale=1.0)
    builders = [builder(Picking.DRAWN, depth=2, nodes=nodes, sample=i) for i in range(samples)]
    grown(growth, builders, table)
    return Counter(read(own) for own in builders)


def first_two(own: TreeBuilder) -> tuple[int, ...]:
    return tuple(own.tokens[n] for n in range(len(own)) if own.parents[n] == -1)[:2]


def surplus(found: Counter[tuple], probs: dict[tuple, float]) -> float:
    total = found.total()
    assert set(found) <= set(probs)
    chi = sum((found[key] - total * p) ** 2 / (total * p) for key, p in probs.items())
    return (chi - len(probs) + 1) / np.sqrt(2 * (len(probs) - 1))


def softmax(row: np.ndarray) -> np.ndarray:
    return np.exp(row) / np.exp(row).sum()


@pytest.mark.parametrize("growth", [RsdC((2, 1)), RsdS(3), DySpec()], ids=["c", "s", "dyspec"])
@pytest.mark.parametrize("samples", LENGTHS)
def test_siblings_are_a_sample_without_replacement(growth: Growth, samples: int) -> None:
    """The joint distribution of the first two children of the text, in draw order."""
    q = softmax(tables(4, scale=1.0)[0, 0])
    probs = {(a, b): q[a] * q[b] / (1 - q[a]) for a, b in itertools.permutations(range(VOCAB), 2)}
    assert surplus(frequencies(growth, first_two, samples, nodes=6), probs) < 4.0


@pytest.mark.parametrize("samples", LENGTHS)
def test_rsd_s_draws_whole_paths_without_replacement(samples: int) -> None:
    """Kool et al.: the paths of the last level, by value, are a sample of the sequence
    distribution."""
    table = tables(4, scale=1.0)
    q = {
        (a, b): softmax(table[0, 0])[a] * softmax(table[1, a])[b]
        for a, b in itertools.product(range(VOCAB), repeat=2)
    }

    def first_path(own: TreeBuilder) -> tuple[int, ...]:
        leaves = [n for n in range(len(own)) if own.depths[n] == 2]
        return tuple(own.path(leaves[0]))

    assert surplus(frequencies(RsdS(3), first_path, samples), q) < 4.0


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


@pytest.mark.parametrize("samples", LENGTHS)
def test_continuations_are_independent_and_counted(samples: int) -> None:
    q = softmax(tables(4, scale=1.0)[0, 0])

    def pair(own: TreeBuilder) -> tuple[int, ...]:
        said = {
            s: own.tokens[n] for n in range(len(own)) for s in own.samples[n] if own.depths[n] == 1
        }
        return said[0], said[1]

    probs = {(a, b): q[a] * q[b] for a, b in itertools.product(range(VOCAB), repeat=2)}
    assert surplus(frequencies(IidTree(3), pair, samples, nodes=6), probs) < 4.0


def test_draws_with_replacement_are_caught() -> None:
    """The tests above prove nothing if any way to draw passes them."""
    q = softmax(tables(4, scale=1.0)[0, 0])
    probs = {(a, b): q[a] * q[b] for a, b in itertools.product(range(VOCAB), repeat=2)}
    assert surplus(frequencies(RsdC((2, 1)), first_two, 500, nodes=6), probs) > 8.0


@given(st.integers(0, 100))
def test_samples_split_among_the_children(seed: int) -> None:
    own = builder(Picking.DRAWN, depth=4, nodes=16, sample=seed)
    grown(IidTree(4), [own], tables(seed))
    draft = drafted(own, Draw.IID, distributions=True)
    assert draft.samples is not None and len(draft) <= 16
    roots = [s for n in draft.children(-1) for s in draft.samples[n]]
    assert sorted(roots) == [0, 1, 2, 3]
    for node in range(len(draft)):
        below = [s for n in draft.children(node) for s in draft.samples[n]]
        assert sorted(below) in ([], sorted(draft.samples[node]))
    for parent in {-1, *range(len(draft))}:
        firsts = [draft.samples[n][0] for n in draft.children(parent)]
        assert firsts == sorted(firsts)
