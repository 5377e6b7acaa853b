"""Drafters in line, and a qualifier that can be left out."""

from dataclasses import dataclass, replace

import pytest

from outrider.acceptance import Fuzzy, Rejection
from outrider.core.counters import Counters
from outrider.core.errors import StrategyError
from outrider.core.types import Budget
from outrider.drafters import Bypass, Fallback, Lookup, ModelDrafter, Qualified
from outrider.policies import FixedLength
from outrider.strategy import Strategy
from tests.exactness.setups.rigs import PROMPTS, outputs, run, stage, tabular_family

pytestmark = [
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.method("fallback"),
    pytest.mark.method("bypass"),
]

FAMILY = tabular_family()
DRAFT = ModelDrafter(model=FAMILY.draft)
LOOKUP = Lookup(min_ngram=2, max_ngram=3)
LINE = Fallback(first=LOOKUP, second=DRAFT)
NEST = Qualified(drafter=DRAFT, qualifier=FAMILY.qualifier, policy=FixedLength(2))


@dataclass(frozen=True)
class Turns:
    """Takes the budgets in turn, one a round."""

    budgets: tuple[Budget, ...]
    adaptive = True

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        return self.budgets[counters.rounds % len(self.budgets)]


def shares(**by_origin: int) -> Budget:
    deepest = max(by_origin.values())
    return Budget(depth=deepest, nodes=deepest, shares=by_origin)


def test_the_second_is_asked_where_the_first_has_nothing() -> None:
    [g] = run(stage(FAMILY.target, LINE), [(1, 2)], temperature=0.9, max_new_tokens=200)
    tallies = g.counters.tallies
    assert tallies["draft"].drafts > 5
    assert sum(t.drafts for name, t in tallies.items() if name.startswith("lookup")) > 5
    assert (
        sum(t.drafts for t in tallies.values()) + g.counters.undrafted_rounds == g.counters.rounds
    )
    inner = LINE.counters(g.sequence.state)
    assert inner["draft"].drafted == tallies["draft"].drafted


def test_each_request_of_a_batch_has_its_own_way() -> None:
    gs = run(stage(FAMILY.target, LINE), PROMPTS, temperature=0.8, max_new_tokens=60)
    ways = {g.counters.tallies["draft"].newest for g in gs}
    assert len(ways) > 1
    alone = [
        run(stage(FAMILY.target, LINE), [p], temperature=0.8, max_new_tokens=60) for p in PROMPTS
    ]
    assert outputs(gs) == [outputs(a)[0] for a in alone]


def test_what_both_can_give() -> None:
    assert LINE.gives.probs and not LINE.gives.reference
    with pytest.raises(StrategyError, match="logits"):
        Strategy(target=FAMILY.target, drafter=LINE, rule=Fuzzy("js", 0.1))
    assert (
        Strategy(target=FAMILY.target, drafter=LINE, rule=Rejection()).exactness == "distribution"
    )


def test_a_lagging_model_catches_up() -> None:
    """The draft model reads what the lookup wrote; its cache never disagrees with the text."""
    turns = Turns((shares(lookup2=4, lookup3=4, draft=0), shares(lookup2=0, lookup3=0, draft=3)))
    whole = stage(FAMILY.target, LINE, policy=turns)
    [g] = run(whole, [(1, 2, 1, 2, 1, 2)], temperature=0.9, max_new_tokens=120)
    [plain] = run(
        stage(FAMILY.target, DRAFT), [(1, 2, 1, 2, 1, 2)], temperature=0.9, max_new_tokens=120
    )
    assert g.output == plain.output
    state = g.sequence.state
    owed = [token for part in state.second.owed for token in part.tolist()]
    assert [*state.second.inner.cache.text, *owed] == [1, 2, 1, 2, 1, 2, *g.output]


def test_the_qualifier_can_be_passed_by() -> None:
    turns = Turns(
        (shares(qualifier=4, draft=0), shares(qualifier=0, draft=3), shares(draft=0, qualifier=0))
    )
    whole = stage(FAMILY.target, Bypass(qualified=NEST), policy=turns)
    [g] = run(whole, [(1, 2)], temperature=0.9, max_new_tokens=120)
    [plain] = run(stage(FAMILY.target, DRAFT), [(1, 2)], temperature=0.9, max_new_tokens=120)
    assert g.output == plain.output
    tallies = g.counters.tallies
    assert tallies["qualifier"].drafts + tallies["draft"].drafts + g.counters.undrafted_rounds == (
        g.counters.rounds
    )
    assert abs(tallies["qualifier"].drafts - tallies["draft"].drafts) <= 1
    sequence = g.sequence.state.sequence
    assert list(sequence.cache.text) == list(sequence.state.cache.text) == [1, 2, *g.output]


def test_without_shares_the_qualifier_is_asked() -> None:
    [bypass] = run(stage(FAMILY.target, Bypass(qualified=NEST)), [(1, 2)], temperature=0.9)
    [nest] = run(stage(FAMILY.target, NEST), [(1, 2)], temperature=0.9)
    assert bypass.counters.drafted_at == nest.counters.drafted_at
    assert set(bypass.counters.tallies) == {"qualifier"}


def test_a_qualifier_that_is_off_leaves_its_share_to_the_drafter_below() -> None:
    small = tabular_family().qualifier
    small.info = replace(small.info, context_length=30)
    nest = replace(NEST, qualifier=small)
    whole = stage(
        FAMILY.target, Bypass(qualified=nest), policy=Turns((shares(qualifier=4, draft=0),))
    )
    [g] = run(whole, [(1, 2)], temperature=0.9, max_new_tokens=100)
    [plain] = run(stage(FAMILY.target, DRAFT), [(1, 2)], temperature=0.9, max_new_tokens=100)
    assert g.output == plain.output
    assert g.counters.tallies["qualifier"].drafts and g.counters.tallies["draft"].drafts > 5


@pytest.mark.parametrize("rule", [Rejection(), Fuzzy("js", 0.1)])
def test_a_bypass_gives_neither_distributions_nor_references(rule) -> None:
    with pytest.raises(StrategyError):
        Strategy(target=FAMILY.target, drafter=Bypass(qualified=NEST), rule=rule)
