"""Conformance tests of drafters: each call of the contract of `protocols.Drafter`, and I1 to I6."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.acceptance import RecursiveRejection
from outrider.core.counters import Counters
from outrider.core.tree import depths
from outrider.core.types import Budget, Draft, Draw, IntArray, Verified
from outrider.decoding.wrapping import WrappedDrafter
from outrider.drafters import NoDrafter, Qualified
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter, DraftPolicy, Request
from outrider.testing.distribution import DRAFT, QUALIFIER, TARGET, Trial
from outrider.testing.errors import require
from outrider.testing.rigs import (
    PROMPTS,
    SAMPLINGS,
    Family,
    check_counters,
    outputs,
    run,
    samples,
    stage,
    tabular_family,
)

Make = Callable[[Family], Drafter]
"""Builds the drafter; receives the models of a family in case the drafter needs any."""

POLICIES: dict[str, DraftPolicy] = {
    "chains of 5": FixedLength(5),
    "chains of 1": FixedLength(1),
    "trees of 24": FixedTree(depth=6, nodes=24),
    "wide trees": FixedTree(depth=1, nodes=5),
}
_DRAWS = 300
"""Number of texts drawn for the test of a distribution: enough to detect misreported
probabilities."""
_LIMIT = 4.0
"""Largest allowed chi-square, in standard deviations above its mean."""


@dataclass(frozen=True, slots=True)
class DrafterReport:
    """The results of a check of a drafter.

    Attributes:
        drafted: number of drafted tokens.
        accepted: number of them that were accepted.
        distribution: standard deviations of chi-square above its mean, under a rule that reads
            probabilities; None if the drafter supplies none.
    """

    drafted: int
    accepted: int
    distribution: float | None = None


def check_drafter(make: Make, *, proposes: bool = True) -> DrafterReport:
    """Check a drafter against the contract.

    Each call of the drafter is audited: it returns one well-formed draft per request, within its
    budget, with declared origins. Under `Match`, the texts equal undrafted decoding, for several
    samplings and policies, alone, in batches, for samples of one prompt that end in different
    rounds, for the next turn, and below a qualifier. Counters add up. A new drafter repeats the
    same drafts. If it supplies probabilities, the distribution under `RecursiveRejection` is the
    target's.

    Args:
        make: builds a new drafter for each check, so that no check depends on another.
        proposes: whether it must draft tokens, some of which are kept, on a repetitive text.

    Returns:
        The counts of the check.

    Raises:
        ConformanceError: the first violated point of the contract, in one line.
    """
    family = tabular_family()
    for number, (name, policy) in enumerate(POLICIES.items()):
        some = dict(list(SAMPLINGS.items())[number :: len(POLICIES)])
        _check_texts(make, family, policy, some, f"with {name}")
    _check_turns(make, family)
    _check_below(make, family)
    drafted, accepted = _check_proposals(make, family) if proposes else (0, 0)
    probability = make(family).gives.probs
    return DrafterReport(drafted, accepted, _check_distribution(make) if probability else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited(WrappedDrafter):
    """Forwards every call to `drafter`, and checks its results."""

    def begin(
        self, requests: Sequence[Request], previous: Sequence[Any | None] | None = None
    ) -> list[Any]:
        """Check that there is one state per request."""
        states = self.drafter.begin(requests, previous)
        require(
            len(states) == len(requests),
            f"begin() returned {len(states)} states for {len(requests)} requests",
        )
        return list(states)

    def propose(
        self, states: Sequence[Any], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Check that there is one well-formed draft per request within its budget, and that tails
        are not modified."""
        before = [tail.copy() for tail in tails]
        drafts = self.drafter.propose(states, tails, budgets)
        require(
            len(drafts) == len(states),
            f"propose() returned {len(drafts)} drafts for {len(states)} requests",
        )
        for tail, old in zip(tails, before, strict=True):
            require(bool((tail == old).all()), "propose() changed a tail")
        for draft, budget in zip(drafts, budgets, strict=True):
            _check_draft(self.drafter, draft, budget)
        return list(drafts)

    def observe(self, states: Sequence[Any], verified: Sequence[Verified]) -> None:
        """Forward the call; the contract has no result to check here."""
        self.drafter.observe(states, verified)

    def commit(self, states: Sequence[Any], tokens: Sequence[IntArray]) -> None:
        """Forward the call; the contract has no result to check here."""
        self.drafter.commit(states, tokens)

    def counters(self, state: Any) -> dict[str, Counters]:
        """Forward the call and return the counters unchanged."""
        return self.drafter.counters(state)


def _check_draft(drafter: Drafter, draft: Draft, budget: Budget) -> None:
    size = len(draft)
    require(
        len(draft.parents) == size, f"a draft of {size} tokens has {len(draft.parents)} parents"
    )
    require(
        len(draft.sources) == size, f"a draft of {size} tokens has {len(draft.sources)} sources"
    )
    if not size:
        return
    require(
        all(-1 <= int(parent) < node for node, parent in enumerate(draft.parents)),
        "a node of a draft stands before its parent",
    )
    deepest = int(depths(draft.parents).max()) + 1
    require(deepest <= budget.depth, f"a draft is {deepest} deep, and {budget.depth} are allowed")
    require(size <= budget.nodes, f"a draft has {size} nodes, and {budget.nodes} are allowed")
    origin = draft.origin or draft.sources[0]
    require(
        origin in drafter.origins,
        f"a draft has the origin {origin!r}, and `origins` are {', '.join(drafter.origins)}",
    )
    order = list(Draw)
    require(
        order.index(draft.draw) <= order.index(drafter.draw),
        f"a draft says that it was drawn {draft.draw}, and `draw` is {drafter.draw}",
    )


def _check_texts(
    make: Make,
    family: Family,
    policy: DraftPolicy,
    samplings: dict[str, dict[str, Any]],
    where: str,
) -> None:
    for name, sampling in samplings.items():
        options: dict[str, Any] = {**sampling, "max_new_tokens": 16, "end_ids": (0,)}
        plain = run(stage(family.target, NoDrafter()), PROMPTS, **options)
        whole = stage(family.target, Audited(drafter=make(family)), policy=policy)
        for prompts, wanted in ((PROMPTS, plain), (PROMPTS[2:3], plain[2:3])):
            drafted = run(whole, prompts, **options)
            require(
                outputs(drafted) == outputs(wanted),
                f"a text differs from undrafted decoding ({name}, {where})",
            )
            for g in drafted:
                _counted(g.counters, len(g.output), f"{name}, {where}")


def _counted(counters: Counters, written: int, where: str) -> None:
    try:
        check_counters(counters, written)
    except AssertionError as error:
        require(False, f"counters: {str(error).splitlines()[0]} ({where})")


def _check_turns(make: Make, family: Family) -> None:
    """Check samples of one prompt, then a text that continues the previous one."""
    whole = stage(family.target, Audited(drafter=make(family)), policy=FixedTree(depth=4, nodes=12))
    alone = stage(family.target, NoDrafter())
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 12}
    several, plain = (samples(s, (1, 2, 3), 6, end_ids=(0,), **options) for s in (whole, alone))
    require(outputs(several) == outputs(plain), "samples of one prompt differ from undrafted ones")
    [first] = run(whole, [(1, 2, 3)], **options)
    turn = (1, 2, 3, *first.output, 4, 4)
    [second] = run(whole, [turn], previous=[first.sequence], **options)
    [fresh] = run(alone, [turn], **options)
    require(second.output == fresh.output, "the next turn differs from an undrafted start")


def _check_below(make: Make, family: Family) -> None:
    """Check the drafter below a qualifier, with tails and commits of several tokens."""
    nest = Qualified(
        drafter=Audited(drafter=make(family)),
        qualifier=family.qualifier,
        policy=FixedTree(depth=3, nodes=8),
    )
    options: dict[str, Any] = {"temperature": 0.8, "max_new_tokens": 24}
    drafted = run(stage(family.target, nest), PROMPTS, **options)
    plain = run(stage(family.target, NoDrafter()), PROMPTS, **options)
    require(outputs(drafted) == outputs(plain), "below a qualifier a text differs")


def _check_proposals(make: Make, family: Family) -> tuple[int, int]:
    """Count drafted and accepted tokens on a repetitive text; two runs must give the same
    result."""
    alone = stage(family.target, NoDrafter())
    [read] = run(alone, [(1,)], temperature=0.9, max_new_tokens=150)
    prompt = (1, *read.output)

    def counts() -> tuple[int, int]:
        whole = stage(
            family.target, Audited(drafter=make(family)), policy=FixedTree(depth=6, nodes=24)
        )
        [g] = run(whole, [prompt], temperature=0.9, max_new_tokens=60, seed=6)
        return g.counters.drafted, g.counters.accepted

    drafted, accepted = counts()
    require(drafted > 0, "nothing is drafted on a text that repeats itself")
    require(accepted > 0, f"none of {drafted} drafted tokens is accepted")
    again = counts()
    require(
        (drafted, accepted) == again,
        f"a new drafter drafted {again[0]} tokens ({again[1]} kept) where one before drafted "
        f"{drafted} ({accepted} kept)",
    )
    return drafted, accepted


def _check_distribution(make: Make) -> float:
    """Check the distribution under a rule that reads probabilities; misreported ones change it."""
    family = Family(TARGET, QUALIFIER, QUALIFIER, DRAFT)
    policy = FixedTree(depth=3, nodes=7)
    found = Trial().surplus(make(family), _DRAWS, RecursiveRejection(), policy)
    require(
        found < _LIMIT,
        f"under RecursiveRejection the distribution is not the target's ({found:.1f} standard "
        "deviations): are the probabilities those that the tokens were drawn from?",
    )
    return found
