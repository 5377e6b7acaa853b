"""The matrix: every drafter, combinator, tree and policy leaves the text as it is under `Match`."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.decoding import generate
from outrider.drafters import NoDrafter
from outrider.policies import (
    ConfidenceStop,
    CostCurve,
    ExpectedGain,
    FixedLength,
    FixedTree,
    Source,
    SpecDecPlus,
)
from outrider.protocols import DraftPolicy
from tests.exactness.setups.rigs import (
    PROMPTS,
    SAMPLINGS,
    check_counters,
    generation,
    outputs,
    run,
    stage,
    tabular_family,
)
from tests.exactness.setups.roster import GROWTHS, free, roster

FAMILY = tabular_family()
ROSTER = roster(FAMILY)
TREE = FixedTree(depth=6, nodes=24)
OFTEN = ("greedy", "t0.7", "t1.3", "top_p", "penalties")


@pytest.mark.parametrize("sampling", OFTEN)
@pytest.mark.parametrize("name", ROSTER)
def test_drafted_equals_undrafted(name: str, sampling: str) -> None:
    """One memory for a ragged batch, then for a single request."""
    options: dict[str, Any] = {**SAMPLINGS[sampling], "end_ids": (0,)}
    drafter = ROSTER[name]()
    for prompts in (PROMPTS, PROMPTS[2:3]):
        plain = run(stage(FAMILY.target, NoDrafter()), prompts, **options)
        drafted = run(stage(FAMILY.target, drafter, policy=TREE), prompts, **options)
        assert outputs(drafted) == outputs(plain)
        assert [g.finish for g in drafted] == [g.finish for g in plain]
        for g in drafted:
            check_counters(g.counters, len(g.output))


@pytest.mark.parametrize("name", ROSTER)
def test_drafts_are_accepted_and_refused(name: str) -> None:
    """The matrix proves nothing if every draft is right or every draft is wrong."""
    [read] = run(stage(FAMILY.target, NoDrafter()), [(1,)], temperature=0.9, max_new_tokens=200)
    whole = stage(FAMILY.target, ROSTER[name](), policy=TREE)
    [g] = run(whole, [(1, *read.output)], temperature=0.9, max_new_tokens=300, seed=6)
    assert 10 < g.counters.accepted < g.counters.drafted


POLICIES: dict[str, DraftPolicy] = {
    "one": FixedLength(1),
    "long": FixedLength(9),
    "bush": FixedTree(depth=1, nodes=5),
    "large": FixedTree(depth=9, nodes=60),
    "confidence": ConfidenceStop(threshold=0.5, longest=7),
    "specdec++": SpecDecPlus(eta=0.6, least=1, longest=8),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ROSTER)
def test_whatever_the_policy(name: str, policy: str) -> None:
    options: dict[str, Any] = {"temperature": 0.8, "max_new_tokens": 30}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS[:3], **options)
    whole = stage(FAMILY.target, ROSTER[name](), policy=POLICIES[policy])
    assert outputs(run(whole, PROMPTS[:3], **options)) == outputs(plain)


def gainful() -> ExpectedGain:
    """A policy that sizes each origin, as chain or tree, and leaves some out at times."""
    reach = tuple(0.6 * 0.8**place for place in range(24))
    copies = [Source(name=f"lookup{n}", accept=0.4, lucky=True) for n in (1, 2, 3)]
    levels = [
        Source(name=f"{kind}{n}", reach=reach, longest=24, lucky=True)
        for kind in ("suffix", "rest", "sam")
        for n in (1, 2, 3, 4, 5, 9, 17)
    ]
    steady = [Source(name="draft", seconds=0.2), Source(name="qualifier", seconds=0.3)]
    grown = [
        Source(name=origin, reach=reach, longest=24)
        for origin in ("recycling", "aded", "stand", "draft-tree")
    ]
    return ExpectedGain(
        verify=CostCurve.of({1: 1.0, 8: 1.5, 32: 4.0}),
        sources=(*copies, *levels, *steady, *grown),
        probe_after=3,
        asking=0.1,
    )


@pytest.mark.parametrize("name", ROSTER)
def test_a_policy_that_adapts_changes_no_text(name: str) -> None:
    options: dict[str, Any] = {"temperature": 0.9, "max_new_tokens": 120}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS[:2], **options)
    drafted = run(stage(FAMILY.target, ROSTER[name](), policy=gainful()), PROMPTS[:2], **options)
    assert outputs(drafted) == outputs(plain)
    for g in drafted:
        check_counters(g.counters, len(g.output))


@settings(max_examples=60)
@given(
    name=st.sampled_from(list(ROSTER)),
    family=st.integers(0, 5),
    seed=st.integers(0, 2**40),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    depth=st.integers(1, 8),
    more=st.integers(0, 20),
    prompts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=1, max_size=4),
    max_new_tokens=st.integers(1, 30),
    end=st.sampled_from([(), (0,), (0, 3)]),
)
def test_any_batch_any_tree(
    name, family, seed, temperature, depth, more, prompts, max_new_tokens, end
) -> None:
    models = tabular_family(seed=family)
    options = {
        "seed": seed,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "end_ids": end,
    }
    policy = FixedTree(depth=depth, nodes=depth + more)
    drafted = run(stage(models.target, roster(models)[name](), policy=policy), prompts, **options)
    for prompt, g in zip(prompts, drafted, strict=True):
        [alone] = run(stage(models.target, NoDrafter()), [prompt], **options)
        assert g.output == alone.output
        assert g.finish == alone.finish
        check_counters(g.counters, len(g.output))


@pytest.mark.parametrize("name", ROSTER)
def test_the_next_turn(name: str) -> None:
    """States of the turn before are taken over."""
    whole = stage(FAMILY.target, ROSTER[name](), policy=TREE)
    [first] = run(whole, [(1, 2, 3)], temperature=0.8)
    turn = (1, 2, 3, *first.output, 4, 4)
    [second] = run(whole, [turn], previous=[first.lane], temperature=0.8)
    [fresh] = run(stage(FAMILY.target, NoDrafter()), [turn], temperature=0.8)
    assert second.output == fresh.output


@pytest.mark.parametrize("name", ROSTER)
def test_ten_samples_of_one_prompt(name: str) -> None:
    """They share a memory and a prefill, and end in different rounds."""
    drafter = ROSTER[name]()
    request = generation((1, 2, 3)).request.prompt

    def ten(whole: Any) -> list[tuple[int, ...]]:
        gs = [generation(request, temperature=1.0, sample=i, end_ids=(0,)) for i in range(10)]
        for _ in generate(whole, gs):
            pass
        return outputs(gs)

    texts = ten(stage(FAMILY.target, NoDrafter()))
    assert ten(stage(FAMILY.target, drafter, policy=TREE)) == texts
    assert len({len(text) for text in texts}) > 2


def test_nothing_is_missing_from_the_roster() -> None:
    """A drafter that `load` knows has its row here (those of the target's layers have their own
    tests: tables have no layers)."""
    from outrider.drafters.catalogue import FREE
    from outrider.strategy.trees import TREES

    own_layers = {"swift", "del", "skip"}
    assert set(FREE) - own_layers <= set(free())
    assert set(TREES) <= set(GROWTHS)
