"""Typical acceptance: the threshold, the longest path, and what it promises."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.acceptance import Match, Rejection, Typical
from outrider.core.counters import Counters
from outrider.core.errors import OptionError, StrategyError
from outrider.core.types import Draft, Draw, Exactness
from outrider.drafters import ModelDrafter, Qualified
from outrider.models.tabular import TabularModel
from outrider.policies import FixedTree
from outrider.strategy import Strategy
from tests.acceptance.hand import Seedling, chain, random_logits, seedlings, tree, view
from tests.acceptance.trees import chances

pytestmark = pytest.mark.method("typical")

PROBS = chances(0.5, 0.3, 0.15, 0.05)
ROWS = PROBS.log().expand(9, 4)


def entropy(probs: torch.Tensor) -> float:
    return -float((probs * probs.log()).sum())


def test_the_threshold_is_the_papers() -> None:
    """min(epsilon, delta exp(-H)): here exp(-H) = 0.32, so the second term decides."""
    limit = min(0.09, 0.3 * math.exp(-entropy(PROBS)))
    assert 0.05 < limit < 0.15
    kept = [Typical()(chain([x]), view(chain([x]), ROWS, temperature=1.0)).path for x in range(4)]
    choice = view(chain([]), ROWS, temperature=1.0).choose(-1)
    assert [bool(path) for path in kept] == [p > limit or x == choice for x, p in enumerate(PROBS)]


def test_epsilon_caps_the_threshold() -> None:
    sharp = chances(0.9, 0.08, 0.01, 0.01).log().expand(2, 4)
    draft = chain([1])
    seen = view(draft, sharp, temperature=1.0)
    assert seen.choose(-1) == 0
    assert not Typical().__call__(draft, seen).path
    verdict = Typical(epsilon=0.07)(draft, view(draft, sharp, temperature=1.0))
    assert verdict.tokens == (1,) and verdict.changed[0]


def test_takes_the_longest_path_then_the_likeliest() -> None:
    draft = tree([0, 1, 2, 1, 2], [-1, -1, 1, 1, 0])
    seen = view(draft, ROWS, temperature=1.0)
    assert Typical(epsilon=1e-6)(draft, seen).path == (1, 3)  # .3 * .3 beats .5 * .15
    deeper = tree([0, 1, 2], [-1, -1, 1])
    assert Typical(epsilon=1e-6)(deeper, view(deeper, ROWS, temperature=1.0)).path == (1, 2)


def test_a_choice_that_is_not_typical_is_no_likelier_for_it() -> None:
    """The choice passes in any case; of two paths of one length it wins only if it is likelier."""
    draft = tree([3, 0], [-1, -1])
    samples = [view(draft, ROWS, temperature=1.0, sample=i) for i in range(200)]
    unlikely = [seen for seen in samples if seen.choose(-1) == 3]
    assert unlikely and all(Typical()(draft, seen).path == (1,) for seen in unlikely)
    assert all(Typical()(chain([3]), seen).path == (0,) for seen in unlikely)


def test_a_change_is_counted_and_the_choice_never_is() -> None:
    for seed in range(40):
        draft = chain([0, 1, 0])
        seen = view(draft, random_logits(4, 4, seed), temperature=1.0, sample=seed)
        verdict = Typical(epsilon=0.2, delta=1.0)(draft, seen)
        nodes = (-1, *verdict.path)
        choices = [seen.choose(node) for node in nodes]
        wanted = [a != b for a, b in zip(verdict.emitted, choices, strict=True)]
        assert list(verdict.changed) == wanted and not verdict.changed[-1]


@given(seedlings(), st.integers(0, 50))
def test_accepts_at_least_what_match_does(seedling: Seedling, sample: int) -> None:
    draft = seedling.grow()
    rows = random_logits(len(draft) + 1, 3, seedling.seed + 7)
    seen = [view(draft, rows, temperature=1.0, sample=sample) for _ in range(2)]
    assert len(Typical()(draft, seen[0]).path) >= len(Match()(draft, seen[1]).path)


@given(seedlings(), st.sampled_from([0.0, 1.0]))
def test_with_an_epsilon_of_one_or_no_temperature_it_is_match(
    seedling: Seedling, temperature: float
) -> None:
    draft = seedling.grow()
    rows = random_logits(len(draft) + 1, 3, seedling.seed + 7)
    seen = [view(draft, rows, temperature=temperature) for _ in range(2)]
    rule = Typical(epsilon=1.0, delta=1e9) if temperature else Typical()
    assert rule(draft, seen[0]).emitted == Match()(draft, seen[1]).emitted


@given(st.integers(0, 60), st.sampled_from([0.0, 0.1, 0.34, 1.0]))
def test_the_budget_holds_at_every_token(seed: int, share: float) -> None:
    """I8."""
    ledger = Counters(accepted=3, next_tokens=2, changed=0)
    draft = chain([0, 1, 2, 0, 1])
    rows = random_logits(6, 3, seed, scale=0.5)
    rule = Typical(epsilon=1e-6, max_changed=share)
    verdict = rule(draft, view(draft, rows, temperature=1.0, ledger=ledger))
    for n in range(len(verdict.changed)):
        assert sum(verdict.changed[: n + 1]) <= math.floor(share * (5 + n + 1))


def test_nothing_follows_an_end_token() -> None:
    draft: Draft = chain([1, 0])
    seen = view(draft, ROWS, temperature=1.0, end_ids=(1,))
    verdict = Typical(epsilon=0.01)(draft, seen)
    assert verdict.tokens == (1,) and verdict.next_token is None


@pytest.mark.parametrize(
    "wrong",
    [{"epsilon": 0.0}, {"epsilon": 1.5}, {"delta": 0.0}, {"delta": math.nan}, {"max_changed": 2.0}],
)
def test_wrong_numbers_are_refused(wrong: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        Typical(**wrong)


def test_what_it_promises_and_where_it_fits() -> None:
    assert Typical().draws == frozenset(Draw) and not Typical().tracks_probs
    model = TabularModel.random()
    drafter = ModelDrafter(model=model)
    whole = Strategy(target=model, drafter=drafter, rule=Typical(), policy=FixedTree())
    assert whole.exactness is Exactness.LOSSY
    nest = Qualified(drafter=drafter, qualifier=model, rule=Typical())
    assert Strategy(target=model, drafter=nest).exactness is Exactness.IDENTICAL
    with pytest.raises(StrategyError, match="does not supply"):
        Strategy(target=model, drafter=nest, rule=Rejection())
