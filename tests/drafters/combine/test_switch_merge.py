"""Combinators: who is asked, what a union holds, and that nobody misses what was emitted."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.acceptance import Rejection
from outrider.core.counters import Counters
from outrider.core.errors import OptionError, StrategyError
from outrider.core.tree import check_parents, path_to
from outrider.core.types import EMPTY_DRAFT, NO_IDS, Budget, Draft, IntArray, Worth, as_ids
from outrider.drafters import Lookup, ModelDrafter, NoDrafter
from outrider.drafters.combine.fallback import Fallback
from outrider.drafters.combine.merge import Merge
from outrider.drafters.combine.switch import Switch
from outrider.policies import FixedTree
from outrider.protocols import Request
from outrider.strategy import Strategy
from tests.exactness.setups.rigs import PROMPTS, generation, outputs, run, stage, tabular_family

pytestmark = [pytest.mark.method("switch"), pytest.mark.method("merge")]

FAMILY = tabular_family()
LOOKUP = Lookup(max_ngram=4, min_ngram=1)
DRAFT = ModelDrafter(model=FAMILY.draft)


def request(prompt: Sequence[int]) -> Request:
    return generation(prompt).request


REQUEST = request((1,))


@dataclass(frozen=True)
class Puppet(NoDrafter):
    """Drafts what it is told to, and notes what it hears."""

    name: str = "puppet"
    draft: Draft = field(default_factory=lambda: Draft(tokens=NO_IDS, parents=NO_IDS, sources=()))
    learns: bool = False
    began: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    heard: list[list[int]] = field(default_factory=list)

    def begin(self, requests: Sequence, previous: Sequence | None = None) -> list[Any]:
        self.began.append(len(requests))
        return [None] * len(requests)

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        self.asked.append(len(states))
        return [self.draft] * len(states)

    def commit(self, states: Sequence[Any], tokens: Sequence[IntArray]) -> None:
        self.heard.extend(t.tolist() for t in tokens)


def tree(name: str, tokens: Sequence[int], parents: Sequence[int], **more: Any) -> Draft:
    return Draft(
        tokens=as_ids(tokens), parents=as_ids(parents), sources=(name,) * len(tokens), **more
    )


def paths(draft: Draft) -> set[tuple[int, ...]]:
    return {
        tuple(int(t) for t in draft.tokens[path_to(draft.parents, node)])
        for node in range(len(draft))
    }


TREES = st.integers(0, 8).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
        st.tuples(*[st.integers(-1, i - 1) for i in range(n)]),
    )
)


def union(a: Draft, b: Draft, nodes: int) -> Draft:
    merge = Merge(first=Puppet(name="a", draft=a), second=Puppet(name="b", draft=b))
    state = merge.begin([REQUEST])
    return merge.propose(state, [NO_IDS], [Budget(depth=9, nodes=nodes)])[0]


@given(TREES, TREES, st.integers(1, 20))
def test_a_union_holds_every_path_once(a, b, nodes) -> None:
    first, second = tree("a", *a), tree("b", *b)
    whole = union(first, second, 99)
    assert paths(whole) == paths(first) | paths(second)
    if len(first) and len(second):
        assert len(whole) == len(paths(whole))
    check_parents(whole.parents)
    cut = union(first, second, nodes)
    assert len(cut) <= nodes
    assert paths(cut) <= paths(whole)
    assert len(cut) == min(nodes, len(whole)), "no budget is wasted"


def test_both_sides_of_a_union_have_their_turn() -> None:
    found = union(tree("a", [1, 2, 3], [-1, 0, 1]), tree("b", [1, 4, 5], [-1, 0, 1]), 4)
    assert found.tokens.tolist() == [1, 2, 4, 3]
    assert found.sources == ("a", "a", "b", "a")
    assert found.parents.tolist() == [-1, 0, 0, 1]


def test_probes_of_a_union_stay_probes() -> None:
    probe = tree("b", [1, 2], [-1, 0], probe=np.array([True, True]))
    found = union(tree("a", [1, 2], [-1, 0]), probe, 9)
    assert found.probe is not None and found.probe.tolist() == [False, True, False, True]
    assert found.children(-1) == [0] and found.children(0) == [2]


def test_a_switch_asks_the_second_only_where_the_first_is_unsure() -> None:
    sure, unsure = tree("a", [1], [-1], match=5), tree("a", [1], [-1], match=4)
    for draft, asked in ((sure, []), (unsure, [1])):
        first, second = Puppet(name="a", draft=draft), Puppet(name="b", draft=tree("b", [2], [-1]))
        both = Switch(first=first, second=second)
        [got] = both.propose(both.begin([REQUEST]), [NO_IDS], [Budget.chain(3)])
        assert second.asked == asked
        assert got.sources == (("b",) if asked else ("a",))


def test_an_unsure_draft_is_better_than_none() -> None:
    draft = tree("a", [1], [-1], score=0.2)
    both = Switch(first=Puppet(name="a", draft=draft), second=Puppet(name="b"), by="score")
    assert both.propose(both.begin([REQUEST]), [NO_IDS], [Budget.chain(3)]) == [draft]


def test_the_second_begins_and_hears_all_when_it_is_asked() -> None:
    """It is told late, in one piece, and misses nothing, not even across turns."""
    first = Puppet(name="a", draft=tree("a", [1], [-1]))
    second = Puppet(name="b")
    both = Fallback(first=first, second=second)
    states = both.begin([REQUEST])
    for token in (3, 4, 5):
        both.propose(states, [NO_IDS], [Budget.chain(2)])
        both.commit(states, [as_ids([token])])
    assert first.heard == [[3], [4], [5]]
    assert second.heard == second.asked == second.began == []
    quiet = Fallback(first=Puppet(name="a"), second=second)
    states = quiet.begin([REQUEST])
    quiet.commit(states, [as_ids([6])])
    quiet.commit(states, [as_ids([7])])
    quiet.propose(states, [NO_IDS], [Budget.chain(2)])
    assert second.began == [1] and second.heard == [[6, 7]] and second.asked == [1]
    quiet.commit(states, [as_ids([8])])
    assert second.heard == [[6, 7]]
    quiet.begin([REQUEST], states)
    assert second.heard == [[6, 7], [8]], "before the next turn takes its state over"


def test_beginning_late_is_not_the_price_of_drafting() -> None:
    second = Puppet(name="b", draft=tree("b", [1], [-1]))
    both = Fallback(first=Puppet(name="a"), second=second)
    states = both.begin([REQUEST])
    once = [both.propose(states, [NO_IDS], [Budget.chain(2)])[0].once for _ in range(3)]
    assert once[0] > 0.0 == once[1] == once[2]


@dataclass(frozen=True)
class Choosy(Puppet):
    """Drafts one token, which gains 0.3, where that is enough."""

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        self.asked.append(len(states))
        drafted = tree(self.name, [1], [-1])
        return [drafted if b.worth.least <= 0.3 else EMPTY_DRAFT for b in budgets]


@pytest.mark.parametrize("second", [[2, 3], []])
def test_a_small_gain_is_taken_where_the_second_has_nothing(second: list[int]) -> None:
    first = Choosy(name="a")
    more = Puppet(name="b", draft=tree("b", second, range(-1, len(second) - 1)))
    both = Fallback(first=first, second=more)
    worth = Worth(floors=(0.1,) * 3, least=0.5, beside="b")
    budgets = [replace(Budget.chain(3), worth=worth)] * 2
    drafts = both.propose(both.begin([REQUEST] * 2), [NO_IDS] * 2, budgets)
    assert [d.tokens.tolist() for d in drafts] == [second or [1]] * 2
    assert first.asked == ([2] if second else [2, 2])
    held = replace(budgets[0], worth=replace(worth, beside=""))  # not by the second's gain
    [draft] = both.propose(both.begin([REQUEST]), [NO_IDS], [held])
    assert draft.tokens.tolist() == second


def test_a_second_that_learns_is_there_from_the_start() -> None:
    second = Puppet(name="b", learns=True)
    both = Fallback(first=Puppet(name="a", draft=tree("a", [1], [-1])), second=second)
    states = both.begin([REQUEST])
    both.propose(states, [NO_IDS], [Budget.chain(2)])
    both.commit(states, [as_ids([3])])
    assert second.began == [1] and second.heard == [[3]] and second.asked == []


def test_shares_say_who_is_asked() -> None:
    first = Lookup(name="copy")
    second = Puppet(name="b")
    line = Fallback(first=first, second=second)
    states = line.begin([request((1, 2, 1, 2))])
    none = Budget(depth=2, nodes=2, shares=dict.fromkeys(first.origins, 0))
    assert len(line.propose(states, [NO_IDS], [none])[0]) == 0
    assert second.asked == [1]
    assert len(line.propose(states, [NO_IDS], [Budget.chain(2)])[0]) == 2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize(
    "drafter",
    [
        Merge(first=LOOKUP, second=DRAFT),
        Switch(first=LOOKUP, second=DRAFT, at_least=2),
        Fallback(first=LOOKUP, second=Merge(first=Lookup(name="other"), second=DRAFT)),
    ],
    ids=["merge", "switch", "fallback-merge"],
)
def test_the_text_is_the_targets(drafter: Any, temperature: float) -> None:
    options = {"temperature": temperature, "max_new_tokens": 80}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options)
    whole = stage(FAMILY.target, drafter, policy=FixedTree(depth=5, nodes=9))
    drafted = run(whole, PROMPTS, **options)
    assert outputs(drafted) == outputs(plain)
    sources = {source for g in drafted for source in g.sources}
    assert sources >= {"lookup", "draft", "target"}


def test_a_union_of_samples_has_no_distribution() -> None:
    with pytest.raises(StrategyError, match="needs the probabilities"):
        Strategy(target=FAMILY.target, drafter=Merge(first=LOOKUP, second=DRAFT), rule=Rejection())
    Strategy(
        target=FAMILY.target,
        drafter=Merge(first=LOOKUP, second=Lookup(name="other")),
        rule=Rejection(),
    )


def test_bad_options_are_refused() -> None:
    with pytest.raises(OptionError, match="by is 'luck'"):
        Switch(first=LOOKUP, second=DRAFT, by="luck")
    for combine in (Fallback, Merge, Switch):
        with pytest.raises(StrategyError, match="both drafters are named"):
            combine(first=LOOKUP, second=Lookup())


def test_nothing_is_drafted_on_an_empty_budget() -> None:
    counters = Counters()
    assert counters.now == 0
    both = Merge(first=LOOKUP, second=DRAFT)
    states = both.begin([request((1, 2, 1, 2))])
    assert len(both.propose(states, [NO_IDS], [Budget(depth=0, nodes=0)])[0]) == 0
