"""The matrix: every drafter, combinator, tree and policy leaves the text as it is under `Match`."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.decoding import Stage
from outrider.drafters import NoDrafter
from outrider.policies import (
    ConfidenceStop,
    CostSurface,
    ExpectedGain,
    FixedLength,
    FixedTree,
    Source,
    SpecDecPlus,
)
from outrider.protocols import Drafter, DraftPolicy
from tests.exactness.setups.requests import Asked, assert_each_is_undrafted_alone, requests
from tests.exactness.setups.rigs import (
    PROMPTS,
    SAMPLINGS,
    Family,
    check_counters,
    next_turn,
    outputs,
    run,
    samples,
    stage,
    tabular_family,
    undrafted,
)
from tests.exactness.setups.roster import roster
from tests.matrix import matrix

FAMILY = tabular_family()
ROSTER = roster(FAMILY)
TREE = FixedTree(depth=6, nodes=24)
OFTEN = ("greedy", "t0.7", "t1.3", "top_p", "penalties")


@pytest.mark.parametrize(("name", "sampling"), matrix(ROSTER, OFTEN))
def test_drafted_equals_undrafted(name: str, sampling: str) -> None:
    """One memory for a ragged batch, then for a single request."""
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 24, "end_ids": (0,)}
    whole = stage(FAMILY.target, ROSTER[name](), policy=TREE)
    for prompts in (PROMPTS, PROMPTS[2:3]):
        plain = run(undrafted(whole), prompts, **options)
        drafted = run(whole, prompts, **options)
        assert outputs(drafted) == outputs(plain)
        assert [g.finish for g in drafted] == [g.finish for g in plain]
        for g in drafted:
            check_counters(g.counters, len(g.output))


@cache
def read_before() -> tuple[int, ...]:
    """A text of the target's own, in which memories find copies."""
    whole = stage(FAMILY.target, NoDrafter())
    return outputs(run(whole, [(1,)], temperature=0.9, max_new_tokens=150))[0]


@pytest.mark.parametrize("name", ROSTER)
def test_drafts_are_accepted_and_refused(name: str) -> None:
    """The matrix proves nothing if every draft is right or every draft is wrong."""
    whole = stage(FAMILY.target, ROSTER[name](), policy=TREE)
    [g] = run(whole, [(1, *read_before())], temperature=0.9, max_new_tokens=60, seed=6)
    assert 10 < g.counters.accepted < g.counters.drafted


POLICIES: dict[str, DraftPolicy] = {
    "one": FixedLength(1),
    "long": FixedLength(9),
    "bush": FixedTree(depth=1, nodes=5),
    "large": FixedTree(depth=9, nodes=60),
    "confidence": ConfidenceStop(threshold=0.5, longest=7),
    "specdec++": SpecDecPlus(eta=0.6, least=1, longest=8),
}


@pytest.mark.parametrize(("name", "policy"), matrix(ROSTER, POLICIES))
def test_whatever_the_policy(name: str, policy: str) -> None:
    options: dict[str, Any] = {"temperature": 0.8, "max_new_tokens": 14}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS[:3], **options)
    whole = stage(FAMILY.target, ROSTER[name](), policy=POLICIES[policy])
    assert outputs(run(whole, PROMPTS[:3], **options)) == outputs(plain)


def gainful() -> ExpectedGain:
    """A policy that sizes each origin, as chain or tree, and leaves some out at times."""
    reach = tuple(0.6 * 0.8**place for place in range(24))
    copies = [Source(name=f"lookup{n}", accept=0.4, opportunistic=True) for n in (1, 2, 3)]
    levels = [
        Source(name=f"{kind}{n}", reach=reach, longest=24, opportunistic=True)
        for kind in ("suffix", "rest", "sam")
        for n in (1, 2, 3, 4, 5, 9, 17)
    ]
    steady = [Source(name="draft", seconds=0.2), Source(name="qualifier", seconds=0.3)]
    grown = [
        Source(name=origin, reach=reach, longest=24)
        for origin in ("recycling", "aded", "stand", "draft-tree")
    ]
    return ExpectedGain(
        verify=CostSurface.of({1: 1.0, 8: 1.5, 32: 4.0}),
        sources=(*copies, *levels, *steady, *grown),
        probe_after=3,
        asking=0.1,
    )


@pytest.mark.parametrize("name", ROSTER)
def test_a_policy_that_adapts_changes_no_text(name: str) -> None:
    options: dict[str, Any] = {"temperature": 0.9, "max_new_tokens": 30}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS[:2], **options)
    drafted = run(stage(FAMILY.target, ROSTER[name](), policy=gainful()), PROMPTS[:2], **options)
    assert outputs(drafted) == outputs(plain)
    for g in drafted:
        check_counters(g.counters, len(g.output))


@settings(max_examples=40)
@given(
    name=st.sampled_from(list(ROSTER)),
    asked=requests(),
    depth=st.integers(1, 8),
    more=st.integers(0, 20),
)
def test_any_batch_any_tree(name: str, asked: Asked, depth: int, more: int) -> None:
    policy = FixedTree(depth=depth, nodes=depth + more)

    def build(models: Family) -> Stage:
        return stage(models.target, roster(models)[name](), policy=policy)

    for g in assert_each_is_undrafted_alone(asked, build):
        check_counters(g.counters, len(g.output))


@pytest.mark.parametrize("name", ROSTER)
def test_the_next_turn(name: str) -> None:
    """States of the turn before are taken over."""
    whole = stage(FAMILY.target, ROSTER[name](), policy=TREE)
    next_turn(whole, (1, 2, 3), temperature=0.8, max_new_tokens=12)


@cache
def ten_undrafted() -> list[tuple[int, ...]]:
    return ten(NoDrafter())


def ten(drafter: Drafter) -> list[tuple[int, ...]]:
    """Samples of one prompt that end in different rounds."""
    whole = stage(FAMILY.target, drafter, policy=TREE)
    return outputs(samples(whole, (1, 2, 3), 10, temperature=1.0, max_new_tokens=12, end_ids=(0,)))


@pytest.mark.parametrize("name", ROSTER)
def test_ten_samples_of_one_prompt(name: str) -> None:
    """They share a memory and a prefill, and end in different rounds."""
    texts = ten_undrafted()
    assert ten(ROSTER[name]()) == texts
    assert len({len(text) for text in texts}) > 2
