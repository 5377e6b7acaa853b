"""I2: with an outer `Rejection`, the joint distribution of the first tokens is the target's.

The distribution of a tabular target is computed exactly; the test is Pearson's chi-square of the
empirical joint distribution against it. The same test must fail for drafters that misreport their
distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from outrider.acceptance import Fuzzy, Match, RecursiveRejection, Rejection
from outrider.core.counters import Counters
from outrider.core.types import Budget, Draft
from outrider.drafters import Fallback, Lookup, ModelDrafter, Qualified, Sam, Suffix, TokenRecycling
from outrider.drafters.combine.merge import Merge
from outrider.drafters.combine.switch import Switch
from outrider.models.tabular import TabularModel
from outrider.policies import CostSurface, ExpectedGain, FixedLength, FixedTree, Source
from outrider.protocols import Drafter, DraftPolicy
from tests.exactness.setups.distributions import DRAFT, PROMPT, QUALIFIER, TARGET, VOCAB, Trial
from tests.exactness.setups.rigs import outputs, samples, stage
from tests.exactness.setups.roster import free

TRIAL = Trial()
FEW, SOME, MANY = 300, 900, 60_000
"""Texts drawn: `FEW` show that distributions are misreported, `SOME` also the published shortcut,
which is caught with the exact distribution in `acceptance/test_fuzzy_distribution.py`."""


def three(inner: Any) -> Qualified:
    return Qualified(
        drafter=ModelDrafter(model=DRAFT), qualifier=QUALIFIER, rule=inner, policy=FixedLength(2)
    )


EXACT: dict[str, Drafter] = {
    "two": ModelDrafter(model=DRAFT),
    "match": three(Match()),
    "rejection": three(Rejection()),
    "fuzzy": three(Fuzzy("js", 0.12)),
    "lookup": Lookup(min_ngram=1),
    "lookup_three": replace(three(Rejection()), drafter=Lookup(min_ngram=1)),
    "fallback": Fallback(first=Lookup(max_ngram=3), second=ModelDrafter(model=DRAFT)),
    "adaptive": replace(
        three(Match()),
        policy=ExpectedGain(
            verify=CostSurface.of({1: 1.0, 8: 4.0}), sources=(Source(name="draft", seconds=0.1),)
        ),
    ),
}


WIDE = ModelDrafter(model=TabularModel.random(vocab_size=VOCAB + 2, order=2, seed=9))
"""A draft model with tokens that the target does not have; it often draws them."""


@pytest.mark.parametrize("rule", [Rejection(), RecursiveRejection()])
def test_drawn_tokens_outside_the_targets_vocabulary_are_refused(rule: Any) -> None:
    """Refused, not left out: what follows is drawn from the residual."""
    assert TRIAL.surplus(WIDE, FEW, rule) < 4.0


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Rejection(), RecursiveRejection()])
def test_drawn_tokens_outside_the_targets_vocabulary_at_length(rule: Any) -> None:
    assert TRIAL.surplus(WIDE, 6000, rule) < 4.0


@pytest.mark.parametrize("name", ["two", "match", "rejection", "fuzzy", "lookup"])
def test_joint_distribution_is_the_targets(name: str) -> None:
    assert TRIAL.surplus(EXACT[name], FEW) < 4.0


def test_joint_distribution_with_a_warp() -> None:
    warped = Trial(warps={"temperature": 0.9, "top_p": 0.85})
    assert warped.surplus(EXACT["rejection"], FEW) < 4.0


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_joint_distribution_is_the_targets_at_length(name: str) -> None:
    assert TRIAL.surplus(EXACT[name], MANY) < 4.0


TREE = FixedTree(depth=3, nodes=7)
FREE_TREES = {
    **{name: make for name, make in free().items() if name != "rest"},
    "merge": lambda: Merge(first=TokenRecycling(), second=Lookup(min_ngram=1)),
    "switch": lambda: Switch(first=Sam(), second=Suffix(), at_least=3),
}


@pytest.mark.parametrize("name", ["lookup", "suffix", "recycling", "stand", "merge"])
def test_trees_of_free_drafters_keep_the_distribution(name: str) -> None:
    """Picked deterministically, judged by recursive rejection: point masses, one by one."""
    assert TRIAL.surplus(FREE_TREES[name](), FEW, RecursiveRejection(), TREE) < 4.0


@pytest.mark.slow
@pytest.mark.parametrize("name", FREE_TREES)
def test_trees_of_free_drafters_keep_the_distribution_at_length(name: str) -> None:
    assert TRIAL.surplus(FREE_TREES[name](), 5000, RecursiveRejection(), TREE) < 4.0


@dataclass(frozen=True)
class Wavering:
    """Drafts nothing in the round after a refusal, whoever may have seen that."""

    adaptive = True

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        return Budget.chain(0 if counters.refused % 2 else 2)


def test_lengths_below_an_inner_match_change_nothing() -> None:
    """What `Match` hands up are the qualifier's own choices, however they were drafted."""

    def texts(policy: DraftPolicy) -> list[tuple[int, ...]]:
        whole = stage(TARGET, replace(three(Match()), policy=policy), Rejection(), window=4)
        return outputs(samples(whole, PROMPT, 30, max_new_tokens=9, **TRIAL.warps))

    assert texts(Wavering()) == texts(FixedLength(2)) == texts(FixedLength(1))


@dataclass(frozen=True, kw_only=True)
class Lying(Qualified):
    """Hands up the qualifier's distribution for every token, kept ones too: the published
    shortcut."""

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        drafts = Qualified.propose(self, states, tails, budgets)
        return [
            self._lie(state, tail, draft)
            for state, tail, draft in zip(states, tails, drafts, strict=True)
        ]

    def _lie(self, state: Any, tail: np.ndarray, draft: Draft) -> Draft:
        sampler, text = state.request.sampler, [*state.request.output, *tail.tolist()]
        distributions = []
        for i in range(len(draft)):
            seen = [*text, *draft.tokens[:i].tolist()]
            logits = QUALIFIER.logits_after([*PROMPT.token_ids, *seen])
            distributions.append(sampler.probs(logits, seen))
        return replace(draft, probs=tuple(distributions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flattering(ModelDrafter):
    """Claims to have drawn from a flatter distribution than it did."""

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        drafts = ModelDrafter.propose(self, states, tails, budgets)
        flat = torch.full((VOCAB,), 1.0 / VOCAB, dtype=torch.float64)
        return [replace(d, probs=(flat,) * len(d)) if len(d) else d for d in drafts]


def test_a_drafter_that_lies_about_its_distribution_is_caught() -> None:
    assert TRIAL.surplus(Flattering(model=DRAFT), FEW) > 8.0


@pytest.mark.slow
def test_claiming_the_qualifiers_distribution_throughout_is_caught() -> None:
    honest, lying = EXACT["fuzzy"], three(Fuzzy("js", 0.12))
    assert isinstance(honest, Qualified)
    lying = Lying(drafter=lying.drafter, qualifier=QUALIFIER, rule=lying.rule, policy=lying.policy)
    assert TRIAL.surplus(lying, SOME) > 8.0
