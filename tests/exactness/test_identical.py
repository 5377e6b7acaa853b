"""I1, I4, I6 and I7 on tabular models: with `Match`, drafting never changes a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.types import FinishReason
from outrider.decoding import Stage
from tests.exactness.setups.requests import Asked, assert_each_is_undrafted_alone, requests
from tests.exactness.setups.rigs import (
    PROMPTS,
    SAMPLINGS,
    Family,
    adaptive,
    check_counters,
    nests,
    next_turn,
    outputs,
    run,
    samples,
    stage,
    tabular_family,
)
from tests.matrix import matrix

pytestmark = [pytest.mark.method("model"), pytest.mark.method("none")]

FAMILY = tabular_family()
NESTS = nests(FAMILY)
DRAFTING = [name for name in NESTS if name != "none"]


@pytest.mark.parametrize(("nest", "batch", "sampling"), matrix(DRAFTING, [1, 5], SAMPLINGS))
def test_drafted_equals_undrafted(nest: str, batch: int, sampling: str) -> None:
    options = SAMPLINGS[sampling]
    prompts = PROMPTS[:batch] if batch > 1 else PROMPTS[2:3]
    plain = run(stage(FAMILY.target, NESTS["none"]), prompts, end_ids=(0,), **options)
    drafted = run(stage(FAMILY.target, NESTS[nest]), prompts, end_ids=(0,), **options)
    assert outputs(drafted) == outputs(plain)
    assert [g.finish for g in drafted] == [g.finish for g in plain]
    for g in drafted:
        check_counters(g.counters, len(g.output))
        assert g.sources and len(g.sources) == len(g.changed) == len(g.output)


def test_drafts_are_really_accepted_and_refused() -> None:
    """The matrix proves nothing if every draft is right or every draft is wrong."""
    for nest in DRAFTING:
        [g] = run(stage(FAMILY.target, NESTS[nest]), [(1, 2)], temperature=0.9, max_new_tokens=120)
        assert 20 < g.counters.accepted < g.counters.drafted - 20
        wrote = {"target", *(("lookup",) if nest.startswith("lookup") else ("draft",))}
        assert set(g.sources) >= wrote
        assert set(g.sources) > wrote or nest in ("two", "lookup")


@given(
    nest=st.sampled_from(DRAFTING), gain=st.booleans(), asked=requests(), window=st.integers(1, 9)
)
def test_any_batch_any_window(nest: str, gain: bool, asked: Asked, window: int) -> None:
    policy = adaptive(nest) if gain else None

    def build(models: Family) -> Stage:
        return stage(models.target, nests(models)[nest], window=window, policy=policy)

    for g in assert_each_is_undrafted_alone(asked, build):
        check_counters(g.counters, len(g.output))


@pytest.mark.parametrize(("nest", "temperature"), matrix(DRAFTING, [0.0, 0.9]))
def test_a_policy_that_adapts_changes_no_text(nest: str, temperature: float) -> None:
    options = {"temperature": temperature, "max_new_tokens": 50}
    plain = run(stage(FAMILY.target, NESTS["none"]), PROMPTS, **options)
    drafted = run(stage(FAMILY.target, NESTS[nest], policy=adaptive(nest)), PROMPTS, **options)
    assert outputs(drafted) == outputs(plain)
    for g in drafted:
        check_counters(g.counters, len(g.output))
        tallies = g.counters.tallies.values()
        assert sum(t.drafted for t in tallies) == g.counters.drafted > 0
        assert sum(t.accepted for t in tallies) == g.counters.accepted
        assert sum(t.refused for t in tallies) == g.counters.refused


def test_samples_differ_and_are_reproducible() -> None:
    def four(nest: str) -> list[tuple[int, ...]]:
        whole = stage(FAMILY.target, NESTS[nest])
        return outputs(samples(whole, (1, 2, 3), 4, temperature=1.0))

    assert len(set(four("none"))) == 4
    assert four("three") == four("none")


def test_identical_models_accept_everything() -> None:
    """Spec 1.6, item 5: a block of LQ + 1 tokens for each target call."""
    from outrider.drafters import ModelDrafter, Qualified

    model = FAMILY.target
    nest = Qualified(drafter=ModelDrafter(model=model), qualifier=model)
    [g] = run(stage(model, nest, window=6), [(1,)], temperature=1.0, max_new_tokens=70)
    assert g.counters.accepted == g.counters.drafted == 60
    assert g.counters.rounds == 10


def test_limit_cuts_an_accepted_run() -> None:
    for limit in range(1, 9):
        [g] = run(stage(FAMILY.target, NESTS["three"]), [(1, 2)], max_new_tokens=limit)
        assert len(g.output) == limit
        assert g.finish is FinishReason.LENGTH


def test_next_turn_reuses_the_caches() -> None:
    first, second = next_turn(stage(FAMILY.target, NESTS["four"]), (1, 2, 3), temperature=0.8)
    assert second.sequence.cache is first.sequence.cache
