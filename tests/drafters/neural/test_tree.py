"""Trees drafted by a model: the same text, the budget, the window, and what nodes carry."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.acceptance import Fuzzy, Match, RecursiveRejection
from outrider.core.errors import OptionError
from outrider.core.tree import depths
from outrider.core.types import NO_IDS, Budget, Draft, Draw, IntArray, Prompt, Rows, as_ids
from outrider.drafters import NoDrafter, Qualified, TreeDrafter
from outrider.drafters.neural.growth import (
    DySpec,
    DySpecLevels,
    Eagle2,
    Growth,
    IidTree,
    RsdC,
    RsdS,
    TopK,
)
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import AcceptanceRule, Needs, Request, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.exactness.setups.rigs import (
    PROMPTS,
    SAMPLINGS,
    check_counters,
    outputs,
    run,
    stage,
    tabular_family,
)
from tests.matrix import matrix

pytestmark = pytest.mark.method("tree")

FAMILY = tabular_family()
GROWTHS: dict[str, Growth] = {
    "top_k": TopK((3, 2, 1, 1)),
    "eagle2": Eagle2(width=3),
    "dyspec": DySpec(),
    "dyspec_levels": DySpecLevels(),
    "rsd_c": RsdC((2, 2, 1)),
    "rsd_s": RsdS(3),
    "iid": IidTree(3),
}
TREE = FixedTree(depth=4, nodes=11)


def tree(name: str, **options: Any) -> TreeDrafter:
    return TreeDrafter(model=FAMILY.draft, growth=GROWTHS[name], **options)


def nest(name: str) -> Qualified:
    inner = FixedTree(depth=3, nodes=7)
    return Qualified(drafter=tree(name), qualifier=FAMILY.qualifier, policy=inner)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "sampling"), matrix(GROWTHS, SAMPLINGS))
def test_drafted_equals_undrafted(name: str, sampling: str) -> None:
    options = SAMPLINGS[sampling]
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, end_ids=(0,), **options)
    for drafter, policy in ((tree(name), TREE), (nest(name), FixedLength(5))):
        whole = stage(FAMILY.target, drafter, policy=policy)
        drafted = run(whole, PROMPTS, end_ids=(0,), **options)
        assert outputs(drafted) == outputs(plain)
        assert outputs(run(whole, PROMPTS[2:3], end_ids=(0,), **options)) == outputs(plain[2:3])
        for g in drafted:
            check_counters(g.counters, len(g.output))


@pytest.mark.usefixtures("unchecked")
@given(
    name=st.sampled_from(list(GROWTHS)),
    family=st.integers(0, 4),
    seed=st.integers(0, 2**40),
    temperature=st.sampled_from([0.0, 0.6, 1.5]),
    depth=st.integers(1, 6),
    more=st.integers(0, 12),
    prompts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=1, max_size=3),
    max_new_tokens=st.integers(1, 20),
)
def test_any_batch_any_budget(
    name, family, seed, temperature, depth, more, prompts, max_new_tokens
) -> None:
    models = tabular_family(seed=family)
    options = {"seed": seed, "temperature": temperature, "max_new_tokens": max_new_tokens}
    drafter = TreeDrafter(model=models.draft, growth=GROWTHS[name])
    policy = FixedTree(depth=depth, nodes=depth + more)
    drafted = run(stage(models.target, drafter, policy=policy), prompts, end_ids=(0,), **options)
    plain = run(stage(models.target, NoDrafter()), prompts, end_ids=(0,), **options)
    assert outputs(drafted) == outputs(plain)


def begun(drafter: TreeDrafter, temperature: float = 0.9, prompt: Sequence[int] = (1, 2)) -> Any:
    params = SamplingParams(temperature=temperature, seed=3)
    [state] = drafter.begin([Request(Prompt(token_ids=tuple(prompt)), Sampler(params))])
    return state


def one(drafter: TreeDrafter, budget: Budget, tail: IntArray = NO_IDS, **options: Any) -> Draft:
    return drafter.propose([begun(drafter, **options)], [tail], [budget])[0]


@pytest.mark.parametrize(
    ("name", "temperature", "distributions"), matrix(GROWTHS, [0.0, 0.9], [False, True])
)
def test_keeps_to_the_budget(name: str, temperature: float, distributions: bool) -> None:
    drafter = tree(name).bind(Needs(probs=distributions), 1)
    for depth, nodes in ((1, 1), (1, 5), (3, 3), (3, 7), (5, 20)):
        draft = one(drafter, Budget(depth=depth, nodes=nodes), temperature=temperature)
        assert 0 < len(draft) <= nodes and depths(draft.parents).max() < depth
        assert draft.origin == "draft-tree" and set(draft.sources) == {"draft"}
        assert draft.score is not None and 0 < draft.score <= depth + 1e-9
    shares = Budget(depth=4, nodes=20, shares={"draft-tree": 2})
    assert len(one(drafter, shares, temperature=temperature)) <= 2


@pytest.mark.parametrize("budget", [Budget(depth=0, nodes=9), Budget(depth=4, nodes=0)])
def test_no_budget_costs_no_forward(budget: Budget) -> None:
    drafter = tree("eagle2")
    state = begun(drafter)
    [draft] = drafter.propose([state], [NO_IDS], [budget])
    assert not len(draft) and state.counters.forwards == 0 and not state.cache.num_speculative


def test_the_budget_is_used() -> None:
    for name in ("top_k", "eagle2", "dyspec", "rsd_s"):
        assert len(one(tree(name), Budget(depth=4, nodes=9))) == 9


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "temperature"), matrix(GROWTHS, [0.0, 0.9]))
def test_the_first_child_is_what_the_model_would_choose(name: str, temperature: float) -> None:
    """The noise of the choices: a model that drafts for itself is never refused."""
    drafter = TreeDrafter(model=FAMILY.target, growth=GROWTHS[name])
    whole = stage(FAMILY.target, drafter, policy=FixedTree(depth=3, nodes=9))
    [g] = run(whole, [(1, 2)], temperature=temperature, max_new_tokens=60)
    assert g.counters.accepted_at[0] == g.counters.rounds - (len(g.output) % 4 == 1)
    assert not g.counters.refused or name.startswith("dyspec")


@pytest.mark.usefixtures("unchecked")
def test_siblings_are_accepted_that_a_chain_would_have_refused() -> None:
    options: dict[str, Any] = {"temperature": 0.9, "max_new_tokens": 80}

    def block(policy: FixedTree | FixedLength) -> float:
        drafter = tree("eagle2")
        gs = run(stage(FAMILY.target, drafter, policy=policy), PROMPTS, **options)
        return sum(g.counters.tokens for g in gs) / sum(g.counters.rounds for g in gs)

    assert block(FixedTree(depth=4, nodes=16)) > block(FixedLength(4)) + 0.2


@pytest.mark.parametrize("name", GROWTHS)
def test_distributions_are_those_that_the_tokens_were_drawn_from(name: str) -> None:
    drafter = tree(name).bind(RecursiveRejection().needs, 1)
    state = begun(drafter, 0.9, (1, 2, 3))
    [draft] = drafter.propose([state], [as_ids([4])], [Budget(depth=3, nodes=9)])
    assert draft.probs is not None and draft.draw is drafter.draw
    sampler = state.request.sampler
    for node in range(len(draft)):
        path, at = [], int(draft.parents[node])
        while at >= 0:
            path.insert(0, int(draft.tokens[at]))
            at = int(draft.parents[at])
        probs = sampler.probs(FAMILY.draft.logits_after([1, 2, 3, 4, *path]), [4, *path])
        own = draft.probs[node]
        if draft.draw is Draw.DETERMINISTIC:
            assert own is None
        else:
            assert own is not None and torch.allclose(own, probs, atol=1e-12)
    greedy = one(drafter, Budget(depth=3, nodes=9), temperature=0.0)
    assert greedy.draw is Draw.DETERMINISTIC and set(greedy.probs or ()) == {None}


def test_references_are_the_rows_at_the_parents() -> None:
    drafter = tree("top_k").bind(Needs(reference=True), 1)
    draft = one(drafter, Budget(depth=3, nodes=9), prompt=(1, 2, 3))
    assert draft.reference is not None and draft.probs is None
    for node, reference in enumerate(draft.reference):
        parent = int(draft.parents[node])
        before = [] if parent < 0 else [int(draft.tokens[parent])]
        grand = int(draft.parents[parent]) if parent >= 0 else -1
        before = ([int(draft.tokens[grand])] if grand >= 0 else []) + before
        assert reference is not None
        assert torch.equal(reference, FAMILY.draft.logits_after([1, 2, 3, *before]))


@pytest.mark.usefixtures("unchecked")
def test_under_fuzzy() -> None:
    rule = Fuzzy("js", 0.2, max_changed=0.3)
    whole = stage(FAMILY.target, tree("eagle2"), rule, policy=TREE)
    gs = run(whole, PROMPTS, temperature=0.9, max_new_tokens=60)
    for g in gs:
        assert g.counters.tokens == len(g.output) == 60
    assert 0 < sum(g.counters.changed for g in gs) <= 0.3 * 60 * len(gs)


class Narrow(TabularModel):
    """Reads no more than a few tokens; NaN after token 5 where `broken`."""

    broken = False

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        out = super().forward(segments, want)
        if self.broken:
            for rows, segment, wanted in zip(out, segments, want, strict=True):
                for place, row in enumerate(wanted):
                    if segment.cache.ending_at(int(row), 1) == [5]:
                        rows.logits[place] = torch.nan
        return out


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "broken"), matrix(GROWTHS, [False, True]))
def test_a_full_window_or_nan_end_the_drafts_and_not_the_text(name: str, broken: bool) -> None:
    assert isinstance(FAMILY.draft, TabularModel)
    model = Narrow(FAMILY.draft.table, context_length=1 << 20 if broken else 20)
    model.broken = broken
    drafter = TreeDrafter(model=model, growth=GROWTHS[name])
    options: dict[str, Any] = {"temperature": 0.9, "max_new_tokens": 40}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options)
    drafted = run(stage(FAMILY.target, drafter, policy=TREE), PROMPTS, **options)
    assert outputs(drafted) == outputs(plain)
    offs = [g.sequence.state.off for g in drafted]
    if broken:
        assert any(offs) and all(off is None or "NaN" in off for off in offs)
    else:
        assert all("window" in off for off in offs)


def test_counters_of_the_draft_model() -> None:
    [g] = run(stage(FAMILY.target, tree("dyspec_levels"), policy=TREE), [(1, 2)])
    own = g.sequence.state.counters
    assert own.drafted == g.counters.drafted > 0
    assert own.forwards <= 4 * g.counters.rounds


def test_the_cache_is_cut_to_the_text() -> None:
    gs = run(stage(FAMILY.target, tree("rsd_s"), policy=TREE), PROMPTS, temperature=0.7)
    for g in gs:
        cache = g.sequence.state.cache
        assert list(cache.text) == [*g.request.prompt.token_ids, *g.output]
        assert not cache.num_speculative


RULES: dict[str, AcceptanceRule] = {"match": Match(), "rrs": RecursiveRejection()}


@pytest.mark.parametrize("rule", RULES)
def test_growth_tells_nothing_of_other_branches(rule: str) -> None:
    """Under a rule that reads distributions, noise is each node's own: two nodes of the same depth
    differ although they follow the same distribution. Under `Match` they see the noise of the
    choice there."""
    flat = TabularModel(torch.zeros(50, 50, dtype=torch.float64))
    drafter = TreeDrafter(model=flat, growth=RsdC((2, 1))).bind(RULES[rule].needs, 1)
    draft = one(drafter, Budget(depth=2, nodes=4))
    below = [int(draft.tokens[draft.children(node)[0]]) for node in draft.children(-1)]
    assert (below[0] == below[1]) == (rule == "match")


def test_wrong_spread_is_refused() -> None:
    for spread in (0.0, -1.0, np.nan):
        with pytest.raises(OptionError, match="spread"):
            replace(tree("top_k"), spread=float(spread))
