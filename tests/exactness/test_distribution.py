"""I2: with an outer `Rejection`, the joint law of the first tokens is the target's.

The law of a tabular target is computed exactly; the test is Pearson's chi-square of the empirical
joint law against it. The same test must fail for drafters that misreport their law.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from outrider.acceptance import Fuzzy, Match, RecursiveRejection, Rejection
from outrider.core.counters import Counters
from outrider.core.types import Budget, Draft, Prompt
from outrider.decoding import generate
from outrider.drafters import Fallback, Lookup, ModelDrafter, Qualified, Sam, Suffix, TokenRecycling
from outrider.drafters.combine.merge import Merge
from outrider.drafters.combine.switch import Switch
from outrider.models.tabular import TabularModel
from outrider.policies import CostCurve, ExpectedGain, FixedLength, FixedTree, Source
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy
from outrider.sampling import Sampler, SamplingParams
from tests.exactness.setups.rigs import generation, stage
from tests.exactness.setups.roster import free

VOCAB, LENGTH = 3, 3
PROMPT = Prompt(token_ids=(0, 1, 1, 2, 0, 2, 2, 1, 2))
"""Holds every pair of the vocabulary but one, so that lookups always have something to copy."""


def model(seed: int, near: TabularModel | None = None) -> TabularModel:
    return TabularModel.random(vocab_size=VOCAB, order=2, seed=seed, near=near, distance=1.0)


TARGET = model(1)
QUALIFIER = model(2, TARGET)
DRAFT = model(3, QUALIFIER)
WARPS = {"temperature": 0.9}


def counts(
    drafter: Drafter,
    samples: int,
    rule: AcceptanceRule | None = None,
    policy: DraftPolicy | None = None,
    **options: Any,
) -> np.ndarray:
    """How often each continuation of `LENGTH` tokens was written."""
    whole = stage(TARGET, drafter, rule or Rejection(), window=LENGTH, policy=policy)
    table = np.zeros([VOCAB] * LENGTH)
    gs = [
        generation(PROMPT, sample=i, max_new_tokens=LENGTH, **{**WARPS, **options})
        for i in range(samples)
    ]
    for _ in generate(whole, gs):
        pass
    for g in gs:
        table[tuple(g.output)] += 1
    return table


def surplus(table: np.ndarray, **options: Any) -> float:
    """Chi-square against the target's exact law, in standard deviations above its mean."""
    params = SamplingParams.of(**{**WARPS, **options})
    law = TARGET.sequence_law(PROMPT.token_ids, LENGTH, Sampler(params)).numpy()
    total, cells = table.sum(), law > 0
    assert table[~cells].sum() == 0
    expected = law[cells] * total
    chi = ((table[cells] - expected) ** 2 / expected).sum()
    freedom = cells.sum() - 1
    return float((chi - freedom) / np.sqrt(2 * freedom))


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
            verify=CostCurve.of({1: 1.0, 8: 4.0}), sources=(Source(name="draft", seconds=0.1),)
        ),
    ),
}


WIDE = ModelDrafter(model=TabularModel.random(vocab_size=VOCAB + 2, order=2, seed=9))
"""A draft model with tokens that the target does not have; it often draws them."""


@pytest.mark.parametrize("rule", [Rejection(), RecursiveRejection()])
def test_drawn_tokens_outside_the_targets_vocabulary_are_refused(rule: Any) -> None:
    """Refused, not left out: what follows is drawn from the residual."""
    assert surplus(counts(WIDE, 3000, rule)) < 4.0


@pytest.mark.parametrize("name", EXACT)
def test_joint_law_is_the_targets(name: str) -> None:
    assert surplus(counts(EXACT[name], 1500)) < 4.0


def test_joint_law_with_a_warp() -> None:
    options = {"top_p": 0.85}
    assert surplus(counts(EXACT["rejection"], 800, **options), **options) < 4.0


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_joint_law_is_the_targets_at_length(name: str) -> None:
    assert surplus(counts(EXACT[name], 60_000)) < 4.0


FREE_TREES = {
    **{name: make for name, make in free().items() if name != "rest"},
    "merge": lambda: Merge(first=TokenRecycling(), second=Lookup(min_ngram=1)),
    "switch": lambda: Switch(first=Sam(), second=Suffix(), at_least=3),
}


@pytest.mark.parametrize("name", FREE_TREES)
def test_trees_of_free_drafters_keep_the_law(name: str) -> None:
    """Picked deterministically, judged by recursive rejection: point masses, one by one."""
    tree = FixedTree(depth=3, nodes=7)
    table = counts(FREE_TREES[name](), 1000, RecursiveRejection(), tree)
    assert surplus(table) < 4.0


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
        gs = [generation(PROMPT, sample=i, max_new_tokens=9, **WARPS) for i in range(60)]
        for _ in generate(whole, gs):
            pass
        return [tuple(g.output) for g in gs]

    assert texts(Wavering()) == texts(FixedLength(2)) == texts(FixedLength(1))


@dataclass(frozen=True, kw_only=True)
class Lying(Qualified):
    """Hands up the qualifier's law for every token, kept ones too: the published shortcut."""

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        drafts = Qualified.propose(self, states, tails, budgets)
        return [
            self._lie(state, tail, draft)
            for state, tail, draft in zip(states, tails, drafts, strict=True)
        ]

    def _lie(self, state: Any, tail: np.ndarray, draft: Draft) -> Draft:
        sampler, text = state.request.sampler, [*state.request.output, *tail.tolist()]
        laws = []
        for i in range(len(draft)):
            seen = [*text, *draft.tokens[:i].tolist()]
            logits = QUALIFIER.logits_after([*PROMPT.token_ids, *seen])
            laws.append(sampler.law(logits, seen))
        return replace(draft, law=tuple(laws))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flattering(ModelDrafter):
    """Claims to have drawn from a flatter law than it did."""

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        drafts = ModelDrafter.propose(self, states, tails, budgets)
        flat = torch.full((VOCAB,), 1.0 / VOCAB, dtype=torch.float64)
        return [replace(d, law=(flat,) * len(d)) if len(d) else d for d in drafts]


def test_a_drafter_that_lies_about_its_law_is_caught() -> None:
    assert surplus(counts(Flattering(model=DRAFT), 1500)) > 8.0


def test_claiming_the_qualifiers_law_throughout_is_caught() -> None:
    honest, lying = EXACT["fuzzy"], three(Fuzzy("js", 0.12))
    assert isinstance(honest, Qualified)
    lying = Lying(drafter=lying.drafter, qualifier=QUALIFIER, rule=lying.rule, policy=lying.policy)
    assert surplus(counts(lying, 1500)) > 8.0
