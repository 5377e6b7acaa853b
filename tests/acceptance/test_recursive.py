"""Recursive rejection: the distribution it emits by enumeration, its acceptance, and what breaks
it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from outrider.acceptance import Match, RecursiveRejection, Rejection
from outrider.core.errors import StrategyError
from outrider.core.types import Draft, Draw, Exactness
from outrider.drafters import ModelDrafter, TreeDrafter
from outrider.drafters.neural.growth import RsdC
from outrider.models.tabular import TabularModel
from outrider.strategy import Strategy
from tests.acceptance.hand import chain, random_logits, tree, view
from tests.acceptance.trees import (
    chances,
    emitted,
    independent,
    merged,
    over,
    reordered,
    siblings,
    without_replacement,
)

pytestmark = pytest.mark.method("recursive")

RULE = RecursiveRejection()
P, Q = chances(0.5, 0.3, 0.15, 0.05), chances(0.1, 0.2, 0.3, 0.4)
PAIRS = {
    "spec": (P, Q),
    "close": (chances(0.6, 0.2, 0.1, 0.1), chances(0.5, 0.3, 0.1, 0.1)),
    "holes": (chances(0.5, 0.0, 0.5, 0.0), chances(0.25, 0.25, 0.0, 0.5)),
    "equal": (P, P),
}


def distinct(probs: Tensor, count: int) -> Iterator[tuple[Draft, float]]:
    for tokens, chance in without_replacement(probs, count):
        yield siblings(tokens, probs, Draw.WITHOUT_REPLACEMENT), chance


def repeated(probs: Tensor, count: int, counted: bool = True) -> Iterator[tuple[Draft, float]]:
    for tokens, chance in independent(probs, count):
        yield merged(tokens, probs, counted=counted), chance


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("pair", PAIRS)
def test_emits_the_targets_distribution_exactly(pair: str, count: int) -> None:
    target, drafted = PAIRS[pair]
    ways = [repeated(drafted, count)]
    if count <= int((drafted > 0).sum()):
        ways.append(distinct(drafted, count))
    for way in ways:
        probs, _ = over(way, RULE, target)
        assert torch.allclose(probs, target, atol=1e-12)


@pytest.mark.parametrize("tokens", [(2,), (3, 0), (1, 2, 0), (0, 1, 2, 3), (1, 1)])
def test_a_fixed_choice_keeps_its_mass_in_the_target(tokens: tuple[int, ...]) -> None:
    """Zero and renormalise: the same acceptance as `Match` in distribution."""
    probs, kept = emitted(RULE, siblings(tokens, None, Draw.DETERMINISTIC), P)
    assert torch.allclose(probs, P, atol=1e-12)
    assert kept == pytest.approx(float(P[list(set(tokens))].sum()))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("count", "without", "with_replacement"),
    [(1, 0.5, 0.5), (2, 0.67976, 0.65), (3, 0.7809, 0.685), (4, 1.0, 0.7165)],
)
def test_acceptance_of_the_specs_vector(
    count: int, without: float, with_replacement: float
) -> None:
    assert over(distinct(Q, count), RULE, P)[1] == pytest.approx(without, abs=5e-6)
    assert over(repeated(Q, count), RULE, P)[1] == pytest.approx(with_replacement, abs=5e-6)


def test_acceptance_of_the_second_vector() -> None:
    target, drafted = PAIRS["close"]
    found = [over(distinct(drafted, count), RULE, target)[1] for count in (1, 2, 3)]
    assert found == pytest.approx([0.90, 0.97, 0.995], abs=2e-3)


def test_equal_distributions_are_always_accepted() -> None:
    assert over(distinct(P, 2), RULE, P)[1] == pytest.approx(1.0)
    assert over(repeated(P, 2), RULE, P)[1] == pytest.approx(1.0)


def test_disjoint_distributions_give_one_token() -> None:
    target, drafted = chances(0.7, 0.3, 0.0, 0.0), chances(0.0, 0.0, 0.5, 0.5)
    for way in (distinct(drafted, 2), repeated(drafted, 3)):
        probs, kept = over(way, RULE, target)
        assert kept == 0 and torch.allclose(probs, target)


def test_siblings_in_another_order_are_caught() -> None:
    """What was drawn last is tested first."""
    turned = ((reordered(draft, (1, 0)), chance) for draft, chance in distinct(Q, 2))
    probs, _ = over(turned, RULE, P)
    assert float((probs - P).abs().sum()) > 0.01


def test_repetitions_must_be_counted() -> None:
    """Testing a child once that was drawn twice is another rule, and not an exact one."""
    probs, _ = over(repeated(Q, 3, counted=False), RULE, P)
    assert float((probs - P).abs().sum()) > 0.01


def test_a_tree_called_independent_is_caught() -> None:
    lying = ((siblings(t, Q, Draw.IID), c) for t, c in without_replacement(Q, 3))
    probs, _ = over(lying, RULE, P)
    assert float((probs - P).abs().sum()) > 0.01


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("known", [True, False])
def test_on_chains_it_is_rejection(known: bool) -> None:
    """Draw for draw, with the same noise."""
    kept = 0
    for seed in range(150):
        logits = random_logits(4, 6, seed)
        near = logits[:3] + random_logits(3, 6, seed + 1000, scale=0.7)
        distributions = [row.softmax(-1) for row in near] if known else None
        tokens = torch.multinomial(near.softmax(-1), 1).flatten().tolist()
        draft = chain(tokens, probs=distributions, draw=Draw.IID if known else Draw.DETERMINISTIC)
        seen = [view(draft, logits, temperature=1.0, sample=seed) for _ in range(2)]
        verdict = RecursiveRejection(with_probs=True)(draft, seen[0])
        other = Rejection(with_probs=True)(draft, seen[1])
        assert verdict.emitted == other.emitted and verdict.path == other.path
        assert all(
            torch.equal(a, b)
            for a, b in zip(verdict.distributions, other.distributions, strict=True)
        )
        kept += len(verdict.path)
    assert 60 < kept < 440


def test_goes_down_through_a_later_sibling() -> None:
    target = chances(0.0, 1.0, 0.0)
    draft = tree([0, 1, 2, 1], [-1, -1, 0, 1], probs=[None] * 4, draw=Draw.DETERMINISTIC)
    logits = target.log().expand(5, 3)
    verdict = RULE(draft, view(draft, logits, temperature=1.0))
    assert verdict.path == (1, 3) and verdict.next_token == 1


def test_nothing_follows_an_end_token() -> None:
    draft = tree([1, 1], [-1, 0], probs=[None, None], draw=Draw.DETERMINISTIC)
    logits = chances(0.0, 1.0, 0.0).log().expand(3, 3)
    verdict = RULE(draft, view(draft, logits, temperature=1.0, end_ids=(1,)))
    assert verdict.tokens == (1,) and verdict.next_token is None


def test_broken_distributions_are_refused_and_cost_nothing() -> None:
    broken = [torch.full((4,), torch.nan, dtype=torch.float64)] * 2
    draft = tree([0, 1], [-1, -1], probs=broken, draw=Draw.WITHOUT_REPLACEMENT)
    probs, kept = emitted(RULE, draft, P)
    assert kept == 0 and torch.allclose(probs, P)


def test_what_it_promises_and_where_it_fits() -> None:
    assert RULE.exactness is Exactness.DISTRIBUTION and RULE.draws == frozenset(Draw)
    model = TabularModel.random()
    drafter = TreeDrafter(model=model, growth=RsdC((2, 2)))
    assert Strategy(target=model, drafter=drafter, rule=RULE).exactness == "distribution"
    assert Strategy(target=model, drafter=drafter, rule=Match()).exactness == "identical"
    with pytest.raises(StrategyError, match=r"without_replacement.*RecursiveRejection"):
        Strategy(target=model, drafter=drafter, rule=Rejection())
    Strategy(target=model, drafter=ModelDrafter(model=model), rule=RULE)
