"""Conformance tests of acceptance rules: each keeps its promise, and detects misreported
probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from outrider.acceptance import Match
from outrider.core.errors import StrategyError
from outrider.core.types import NO_IDS, Budget, Draft, Exactness, IntArray, as_ids
from outrider.decoding.generation import Generation
from outrider.drafters import Merge, ModelDrafter, NoDrafter, TokenRecycling, TreeDrafter
from outrider.drafters.combine.compatibility import check_fit
from outrider.drafters.neural.growth import Eagle2, IidTree, RsdC, TopK
from outrider.drafters.neural.model_state import ModelState
from outrider.policies import FixedTree
from outrider.protocols import AcceptanceRule, Drafter, Segment
from outrider.sampling.noise import Purpose
from outrider.testing.distribution import DRAFT, QUALIFIER, TARGET, Trial
from outrider.testing.errors import require
from outrider.testing.rigs import PROMPTS, SAMPLINGS, Family, outputs, run, stage, tabular_family

_TREE = FixedTree(depth=4, nodes=12)
_SAMPLINGS = ("greedy", "t0.7", "penalties")
_DRAWS, _LIMIT = 300, 4.0


@dataclass(frozen=True, slots=True)
class RuleReport:
    """The results of a check of a rule.

    Attributes:
        drafters: how many kinds of drafts it judges.
        accepted: number of tokens that it kept.
        changed: number of tokens that differ from the target's choice.
        distribution: standard deviations of chi-square above its mean, the largest over drafters;
            None if the rule promises another exactness.
        liar: the same for a drafter that misreports its probabilities.
    """

    drafters: int
    accepted: int
    changed: int
    distribution: float | None = None
    liar: float | None = None


def check_rule(rule: AcceptanceRule) -> RuleReport:
    """Check that a rule keeps its promise, for all kinds of drafts that it judges.

    `identical`: texts equal undrafted decoding. `distribution`: the joint distribution of the first
    tokens is the target's; for a drafter that misreports its probabilities it is not. `lossy`:
    exactly the tokens that differ from the target's choice are counted as changed; with a
    `max_changed`, the budget is never exceeded.

    Args:
        rule: the rule, with its options.

    Returns:
        The counts of the check.

    Raises:
        ConformanceError: the first violated point, in one line.
    """
    judged = {name: drafter for name, drafter in _drafters().items() if _fits(rule, drafter)}
    require(
        bool(judged), f"{type(rule).__name__} judges none of the kinds of drafts that there are"
    )
    if rule.exactness is Exactness.DISTRIBUTION:
        return _check_distribution(rule, judged)
    accepted = changed = 0
    for name, drafter in judged.items():
        for g in _written(rule, drafter, name):
            accepted += g.counters.accepted
            changed += _check_changes(rule, g, name)
    require(accepted > 0, "no drafted token is accepted")
    return RuleReport(len(judged), accepted, changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lying(ModelDrafter):
    """A drafter that misreports its probabilities as uniform."""

    def propose(
        self, states: Sequence[ModelState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return the drafts of the model, with uniform probabilities."""
        drafts = ModelDrafter.propose(self, states, tails, budgets)
        size = self.model.info.vocab_size
        uniform = torch.full((size,), 1.0 / size, dtype=torch.float64)
        return [replace(draft, probs=(uniform,) * len(draft)) for draft in drafts]


def _drafters(family: Family | None = None) -> dict[str, Drafter]:
    """Return one or more drafters for each way of drawing siblings."""
    family = family or tabular_family()
    draft = family.draft
    return {
        "chains": ModelDrafter(model=draft),
        "independent continuations": TreeDrafter(model=draft, growth=IidTree(samples=3)),
        "siblings without replacement": TreeDrafter(model=draft, growth=RsdC((2, 2, 1))),
        "deterministic siblings": TreeDrafter(model=draft, growth=TopK((3, 2, 1))),
        "ranked trees": TreeDrafter(model=draft, growth=Eagle2(width=3)),
        "recycled rows": TokenRecycling(),
        "unions": Merge(first=TokenRecycling(), second=ModelDrafter(model=draft)),
    }


def _fits(rule: AcceptanceRule, drafter: Drafter) -> bool:
    try:
        check_fit(rule, drafter)
        drafter.bind(rule.needs, 1)
    except StrategyError:
        return False
    return True


def _written(rule: AcceptanceRule, drafter: Drafter, name: str) -> list[Generation]:
    """Generate texts under the rule; if it promises so, check that they equal undrafted
    decoding."""
    family = tabular_family()
    found: list[Generation] = []
    for sampling in _SAMPLINGS:
        options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 12}
        drafted = run(stage(family.target, drafter, rule, policy=_TREE), PROMPTS[:3], **options)
        if rule.exactness is Exactness.IDENTICAL:
            alone = stage(family.target, NoDrafter(), Match())
            plain = run(alone, PROMPTS[:3], **options)
            require(
                outputs(drafted) == outputs(plain),
                f"it promises identical texts, and one differs ({name}, {sampling})",
            )
        found += drafted
    return found


def _check_changes(rule: AcceptanceRule, g: Generation, name: str) -> int:
    """Compare each token with the target's choice after the tokens before it."""
    target = tabular_family().target
    sampler, prompt = g.request.sampler, g.request.prompt
    [cache] = target.start([prompt])
    differs: list[bool] = []
    for index, token in enumerate(g.output):
        [rows] = target.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
        support = sampler.support(rows.logits[0], g.output[:index])
        differs.append(token != sampler.draw(support, index, Purpose.CHOICE))
        cache.commit([token])
    require(
        differs == list(g.changed),
        f"{sum(g.changed)} tokens are counted as changed, and {sum(differs)} differ from the "
        f"target's choice ({name})",
    )
    limit = getattr(rule, "max_changed", None)
    require(
        limit is None or sum(differs) <= limit * len(differs),
        f"{sum(differs)} of {len(differs)} tokens are changed, and the budget is {limit} ({name})",
    )
    return sum(differs)


def _check_distribution(rule: AcceptanceRule, judged: dict[str, Drafter]) -> RuleReport:
    family = Family(TARGET, QUALIFIER, QUALIFIER, DRAFT)
    worst = 0.0
    for name, drafter in _drafters(family).items():
        if name not in judged:
            continue
        found = Trial().surplus(drafter, _DRAWS, rule, FixedTree(depth=3, nodes=7))
        require(
            found < _LIMIT,
            f"it promises the target's distribution, and is {found:.1f} standard deviations off "
            f"({name})",
        )
        worst = max(worst, found)
    honest = judged["chains"] if "chains" in judged else next(iter(judged.values()))
    accepted = sum(g.counters.accepted for g in _written(rule, honest, "honest"))
    require(accepted > 0, "no drafted token is accepted")
    if "chains" not in judged:
        return RuleReport(len(judged), accepted, 0, worst)
    liar = Trial().surplus(Lying(model=DRAFT), _DRAWS, rule)
    require(
        liar > _LIMIT,
        f"a drafter that misreports its probabilities goes unnoticed ({liar:.1f} standard "
        "deviations): does the rule read them?",
    )
    return RuleReport(len(judged), accepted, 0, worst, liar)
