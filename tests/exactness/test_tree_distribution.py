"""I2 for trees: the joint distribution of the first tokens is the target's, however siblings were
drawn.

As in `test_distribution.py`, on a tabular target whose distribution is computed exactly; the same
test must fail for trees that misreport how they were drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from outrider.acceptance import KSeq, Match, RecursiveRejection, Rejection
from outrider.core.types import Draft, Draw, as_ids
from outrider.drafters import Fallback, Lookup, ModelDrafter, Qualified, TreeDrafter
from outrider.drafters.combine.merge import Merge
from outrider.drafters.combine.switch import Switch
from outrider.drafters.neural.growth import (
    DySpec,
    DySpecLevels,
    Eagle2,
    Growth,
    IidTree,
    RsdC,
    RsdS,
    Spine,
    TopK,
)
from outrider.models.tabular import TabularModel
from outrider.policies import ConfidenceStop, FixedTree, SpecDecPlus
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy
from tests.exactness.setups.distributions import DRAFT, LENGTH, QUALIFIER, VOCAB, Trial
from tests.matrix import matrix

WIDE = TabularModel.random(vocab_size=VOCAB + 3, order=1, seed=3)
"""Draws tokens that the target does not have."""


def grown(growth: Growth) -> TreeDrafter:
    return TreeDrafter(model=DRAFT, growth=growth)


TRIAL = Trial(policy=FixedTree(depth=LENGTH, nodes=7))
FEW, SOME = 300, 900
"""Texts drawn."""


def copies() -> Lookup:
    return Lookup(min_ngram=1)


def renamed(growth: Growth) -> TreeDrafter:
    return replace(grown(growth), name="other", origin="other")


def confirmed(drafter: Drafter, inner: AcceptanceRule) -> Qualified:
    policy = FixedTree(depth=2, nodes=5)
    return Qualified(drafter=drafter, qualifier=QUALIFIER, rule=inner, policy=policy)


RRS = RecursiveRejection
EXACT: dict[str, tuple[Drafter, AcceptanceRule]] = {
    "rsd_c": (grown(RsdC((3, 2, 1))), RRS()),
    "rsd_s": (grown(RsdS(3)), RRS()),
    "dyspec": (grown(DySpec()), RRS()),
    "dyspec_levels": (grown(DySpecLevels(threshold=0.2)), RRS()),
    "spine": (grown(Spine(sampled=(1, 2, 2, 3))), RRS()),
    "iid": (grown(IidTree(3)), RRS()),
    "wider": (TreeDrafter(model=WIDE, growth=RsdC((3, 2, 1))), RRS()),
    "wider_kseq": (TreeDrafter(model=WIDE, growth=IidTree(2)), KSeq()),
    "iid_first_only": (grown(IidTree(3)), Rejection()),
    "kseq": (grown(IidTree(3)), KSeq()),
    "kseq_two": (grown(IidTree(2)), KSeq()),
    "kseq_chain": (ModelDrafter(model=DRAFT), KSeq()),
    "top_k": (grown(TopK((2, 2, 1))), RRS()),
    "eagle2": (grown(Eagle2(width=2)), RRS()),
    "lookup": (copies(), RRS()),
    "fallback": (Fallback(first=copies(), second=grown(RsdC((2, 2, 1)))), RRS()),
    "fallback_first_only": (Fallback(first=copies(), second=grown(IidTree(2))), Rejection()),
    "switch": (Switch(first=copies(), second=grown(RsdS(2)), at_least=2), RRS()),
    "switch_kseq": (Switch(first=renamed(IidTree(2)), second=grown(IidTree(3))), KSeq()),
    "merge": (Merge(first=copies(), second=grown(TopK((2, 1, 1)))), RRS()),
    "merge_two": (Merge(first=renamed(Eagle2(width=2)), second=grown(TopK((1, 2)))), RRS()),
    "chain": (ModelDrafter(model=DRAFT), RRS()),
    "inner": (confirmed(grown(DySpec()), RRS()), Rejection()),
    "inner_kseq": (confirmed(grown(IidTree(2)), KSeq()), RRS()),
    "inner_match": (confirmed(grown(RsdS(2)), Match()), RRS()),
}


def probs_of(name: str, draws: int) -> float:
    drafter, rule = EXACT[name]
    return TRIAL.surplus(drafter, draws, rule)


OFTEN = ("rsd_c", "rsd_s", "kseq", "merge_two", "inner")


@pytest.mark.parametrize("name", OFTEN)
def test_joint_distribution_is_the_targets(name: str) -> None:
    assert probs_of(name, FEW) < 4.0


@pytest.mark.parametrize("name", ["rsd_s", pytest.param("kseq", marks=pytest.mark.slow)])
def test_joint_distribution_with_a_warp(name: str) -> None:
    drafter, rule = EXACT[name]
    warped = replace(TRIAL, warps={"temperature": 0.9, "top_p": 0.85})
    assert warped.surplus(drafter, FEW, rule) < 4.0


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_joint_distribution_is_the_targets_at_length(name: str) -> None:
    assert probs_of(name, 40_000) < 4.0


STOPS: dict[str, DraftPolicy] = {
    "confidence": ConfidenceStop(threshold=0.6, longest=3),
    "specdec": SpecDecPlus(eta=0.5, least=1, longest=3),
}


@pytest.mark.parametrize(("name", "stop"), matrix(["chain", "dyspec", "kseq"], STOPS))
def test_a_stop_biases_no_rule(name: str, stop: str) -> None:
    drafter, rule = EXACT[name]
    assert TRIAL.surplus(drafter, FEW, rule, STOPS[stop]) < 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Twisted(TreeDrafter):
    """Does something to its drafts that it does not tell."""

    twist: Callable[[Draft], Draft] = lambda draft: draft

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        drafts = TreeDrafter.propose(self, states, tails, budgets)
        return [self.twist(draft) if len(draft) else draft for draft in drafts]


def flattered(draft: Draft) -> Draft:
    """Claims a flatter distribution than the one it drew from."""
    flat = torch.full((VOCAB,), 1.0 / VOCAB, dtype=torch.float64)
    return replace(draft, probs=(flat,) * len(draft))


def turned(draft: Draft) -> Draft:
    """The first two siblings change places."""
    first, second, *_ = draft.children(-1)
    tokens, parents = draft.tokens.copy(), draft.parents.copy()
    tokens[[first, second]] = tokens[[second, first]]
    for node, parent in enumerate(draft.parents):
        parents[node] = {first: second, second: first}.get(int(parent), parent)
    return replace(draft, tokens=tokens, parents=as_ids(parents))


def likeliest_first(draft: Draft) -> Draft:
    """Sorts what was drawn by its probability."""
    first, second, *_ = draft.children(-1)
    assert draft.probs is not None and draft.probs[first] is not None
    probs, tokens = draft.probs[first], draft.tokens
    return turned(draft) if probs[tokens[second]] > probs[tokens[first]] else draft


def independent(draft: Draft) -> Draft:
    """Calls siblings drawn without replacement independent."""
    return replace(draft, draw=Draw.IID)


LIARS = {
    "flattered": (flattered, RsdC((3, 1, 1)), RRS(), FEW),
    "out of order": (likeliest_first, RsdC((2, 1, 1)), RRS(), 2 * FEW),
    "called independent": (independent, RsdC((3, 2)), KSeq(), SOME),
}
"""With the texts that show them. The last one is caught by the exact distribution as well, in
`tests/acceptance`, and KSeq by the picks below."""


@pytest.mark.parametrize(
    "liar",
    ["flattered", "out of order", pytest.param("called independent", marks=pytest.mark.slow)],
)
def test_a_tree_that_lies_is_caught(liar: str) -> None:
    twist, growth, rule, draws = LIARS[liar]
    drafter = Twisted(model=DRAFT, growth=growth, twist=twist)
    assert TRIAL.surplus(drafter, draws, rule) > 8.0


def test_picks_judged_as_independent_draws_would_be_biased() -> None:
    picks = Fallback(first=renamed(TopK((3, 2, 1))), second=grown(IidTree(2)))
    assert TRIAL.surplus(picks, FEW, KSeq()) > 8.0


@pytest.mark.slow
def test_a_draft_taken_for_what_was_drawn_in_it_would_be_biased() -> None:
    drawn = renamed(RsdC((2, 2, 1)))
    valued = Switch(first=drawn, second=grown(IidTree(2)), at_least=1.2, by="score")
    assert TRIAL.surplus(valued, 10_000, RRS()) > 8.0
