"""k-SEQ: its allowance and residual against plain twins, the distribution it emits by
enumeration."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outrider.acceptance import KSeq, Rejection
from outrider.acceptance.kseq import allowance, chance, kept_mass, leftover
from outrider.core.errors import StrategyError
from outrider.core.types import Draft, Draw, as_ids
from outrider.drafters import ModelDrafter, TreeDrafter
from outrider.drafters.neural.growth import IidTree, RsdC, TopK
from outrider.models.tabular import TabularModel
from outrider.strategy import Strategy
from tests.acceptance.hand import chain, random_logits, view
from tests.acceptance.trees import chances, emitted, independent, merged, over, scripted, siblings

pytestmark = pytest.mark.method("kseq")

P, Q = chances(0.5, 0.3, 0.15, 0.05), chances(0.1, 0.2, 0.3, 0.4)
RULE = KSeq()


def drawn(probs: Tensor, count: int, counted: bool = True) -> Iterator[tuple[Draft, float]]:
    for tokens, probability in independent(probs, count):
        yield merged(tokens, probs, counted=counted), probability


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("k", "kept", "rho", "beta"),
    [
        (1, 0.5, 1.0, 0.5),
        (2, 0.65844, 1.58443, 0.41557),
        (3, 0.71, 2.10003, 0.33809),
        pytest.param(4, 0.75475, 2.54746, 0.29627, marks=pytest.mark.slow),
    ],
)
def test_the_specs_vector(k: int, kept: float, rho: float, beta: float) -> None:
    found = allowance(P, Q, k)
    assert found == pytest.approx(rho, abs=6e-6)
    passed = float(kept_mass(P, Q, found).sum())
    assert passed == pytest.approx(beta, abs=6e-6)
    assert chance(passed, k) == pytest.approx(kept, abs=6e-6)
    assert over(drawn(Q, k), RULE, P)[1] == pytest.approx(kept, abs=6e-6)


PAIRS = {
    "spec": (P, Q),
    "holes": (chances(0.5, 0.0, 0.5, 0.0), chances(0.25, 0.25, 0.0, 0.5)),
    "equal": (P, P),
    "disjoint": (chances(0.7, 0.3, 0.0, 0.0), chances(0.0, 0.0, 0.5, 0.5)),
    "sure": (P, chances(0.0, 1.0, 0.0, 0.0)),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("pair", PAIRS)
def test_emits_the_targets_distribution_exactly(pair: str, k: int) -> None:
    target, drafted = PAIRS[pair]
    probs, kept = over(drawn(drafted, k), RULE, target)
    assert torch.allclose(probs, target, atol=1e-9)
    if pair == "equal":
        assert kept == pytest.approx(1.0)
    if pair == "disjoint":
        assert kept == 0


@pytest.mark.usefixtures("unchecked")
def test_repetitions_must_be_counted() -> None:
    """Counting children instead of draws lets k depend on what was drawn."""
    probs, _ = over(drawn(Q, 3, counted=False), RULE, P)
    assert float((probs - P).abs().sum()) > 0.01


def test_distinct_picks_would_be_judged_wrongly() -> None:
    """Why deterministic siblings are refused."""
    probs, _ = emitted(RULE, siblings([1, 3], None, Draw.DETERMINISTIC), P)
    assert float((probs - P).abs().sum()) > 0.01


simplex = st.lists(st.floats(0.01, 1.0), min_size=5, max_size=5).map(tuple)


def probs_of(weights: tuple[float, ...]) -> Tensor:
    raw = chances(*weights)
    return raw / raw.sum()


@given(target=simplex, drafted=simplex, k=st.integers(1, 6))
def test_the_residual_is_what_is_missing(target: tuple, drafted: tuple, k: int) -> None:
    """Brute force: the target's distribution less what each of the k tests accepts, term by
    term."""
    p, q = probs_of(target), probs_of(drafted)
    rho = allowance(p, q, k)
    one = kept_mass(p, q, rho)
    beta = float(one.sum())
    accepted = sum((1 - beta) ** i * one for i in range(k))
    left = leftover(p, q, k, rho)
    missing = p - accepted
    if float(missing.sum()) > 1e-10:  # else every draw is kept, and nothing is drawn from it
        assert torch.allclose(left, missing, atol=1e-9)
    assert 1.0 <= rho <= k and float(missing.min()) > -1e-9


@given(target=simplex, drafted=simplex)
def test_what_must_hold_of_the_allowance(target: tuple, drafted: tuple) -> None:
    """P is nondecreasing in k and at least 1 - (1 - 1/k)^k of the most that k draws could keep;
    rho is the smallest that pays."""
    p, q = probs_of(target), probs_of(drafted)
    before = 0.0
    for k in (1, 2, 3, 4):
        rho = allowance(p, q, k)
        beta = float(kept_mass(p, q, rho).sum())
        kept = chance(beta, k)
        assert kept <= rho * beta + 1e-12
        assert kept >= before - 1e-9
        before = kept
        most = float(torch.minimum(p, 1 - (1 - q) ** k).sum())
        assert kept >= (1 - (1 - 1 / k) ** k) * min(most, 1.0) - 1e-9
        if rho > 1 + 1e-6:
            less = float(kept_mass(p, q, rho - 1e-6).sum())
            assert chance(less, k) > (rho - 1e-6) * less - 1e-12


@pytest.mark.usefixtures("unchecked")
def test_on_chains_it_is_rejection() -> None:
    for seed in range(80):
        logits = random_logits(4, 6, seed)
        near = logits[:3] + random_logits(3, 6, seed + 1000, scale=0.7)
        distributions = [row.softmax(-1) for row in near]
        tokens = torch.multinomial(near.softmax(-1), 1).flatten().tolist()
        draft = chain(tokens, probs=distributions)
        seen = [view(draft, logits, temperature=1.0, sample=seed) for _ in range(2)]
        assert RULE(draft, seen[0]).emitted == Rejection()(draft, seen[1]).emitted


def test_goes_on_with_the_continuations_that_survive() -> None:
    """Two of three share the first token, and both are tested at the second."""
    probs = chances(0.5, 0.5)
    draft = Draft(
        tokens=as_ids([0, 1, 0, 1]),
        parents=as_ids([-1, -1, 0, 0]),
        sources=("draft",) * 4,
        draw=Draw.IID,
        probs=(probs,) * 4,
        samples=((0, 2), (1,), (2,), (0,)),
    )
    numbers = [0.999, 0.999, 0.999]
    seen = scripted(draft, chances(1.0, 0.0), numbers)
    verdict = RULE(draft, seen)
    assert verdict.tokens == (0, 0)  # draw 0 went on with 1, which is refused; draw 2 with 0
    seen = scripted(draft, chances(1.0, 0.0), [0.999, math.inf, 0.999])
    assert RULE(draft, seen).tokens == (0,)  # two draws are tested, not three


def test_where_it_fits() -> None:
    model = TabularModel.random()
    for growth in (RsdC((2, 2)), TopK((2, 2))):
        with pytest.raises(StrategyError, match="KSeq cannot judge"):
            Strategy(target=model, drafter=TreeDrafter(model=model, growth=growth), rule=RULE)
    Strategy(target=model, drafter=TreeDrafter(model=model, growth=IidTree(3)), rule=RULE)
    Strategy(target=model, drafter=ModelDrafter(model=model), rule=RULE)
