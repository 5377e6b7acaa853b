"""I1, I4, I6 and I7 on tabular models: with `Match`, drafting never changes a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.types import FinishReason
from tests.exactness.setups.rigs import (
    PROMPTS,
    SAMPLINGS,
    adaptive,
    check_counters,
    nests,
    outputs,
    run,
    stage,
    tabular_family,
)

FAMILY = tabular_family()
NESTS = nests(FAMILY)
DRAFTING = [name for name in NESTS if name != "none"]


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("nest", DRAFTING)
def test_drafted_equals_undrafted(nest: str, sampling: str, batch: int) -> None:
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
        [g] = run(stage(FAMILY.target, NESTS[nest]), [(1, 2)], temperature=0.9, max_new_tokens=200)
        assert 20 < g.counters.accepted < g.counters.drafted - 20
        wrote = {"target", *(("lookup",) if nest.startswith("lookup") else ("draft",))}
        assert set(g.sources) >= wrote
        assert set(g.sources) > wrote or nest in ("two", "lookup")


@given(
    nest=st.sampled_from(DRAFTING),
    gain=st.booleans(),
    family=st.integers(0, 5),
    seed=st.integers(0, 2**40),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    window=st.integers(1, 9),
    prompts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=1, max_size=4),
    max_new_tokens=st.integers(1, 30),
    end=st.sampled_from([(), (0,), (0, 3)]),
)
def test_any_batch_any_window(
    nest, gain, family, seed, temperature, window, prompts, max_new_tokens, end
) -> None:
    models = tabular_family(seed=family)
    options = {
        "seed": seed,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "end_ids": end,
    }
    policy = adaptive(nest) if gain else None
    whole = stage(models.target, nests(models)[nest], window=window, policy=policy)
    drafted = run(whole, prompts, **options)
    for prompt, g in zip(prompts, drafted, strict=True):
        [alone] = run(stage(models.target, NESTS["none"]), [prompt], **options)
        assert g.output == alone.output
        assert g.finish == alone.finish
        check_counters(g.counters, len(g.output))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("nest", DRAFTING)
def test_a_policy_that_adapts_changes_no_text(nest: str, temperature: float) -> None:
    options = {"temperature": temperature, "max_new_tokens": 150}
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
    from outrider.core.types import Prompt
    from outrider.decoding import generate
    from tests.exactness.setups.rigs import generation

    prompt = Prompt(token_ids=(1, 2, 3))

    def four(nest: str) -> list[tuple[int, ...]]:
        gs = [generation(prompt, temperature=1.0, sample=i) for i in range(4)]
        for _ in generate(stage(FAMILY.target, NESTS[nest]), gs):
            pass
        return outputs(gs)

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
    whole = stage(FAMILY.target, NESTS["four"])
    [first] = run(whole, [(1, 2, 3)], temperature=0.8)
    turn = (1, 2, 3, *first.output, 4, 4)
    lane = first.lane
    [second] = run(whole, [turn], previous=[lane], temperature=0.8)
    [fresh] = run(stage(FAMILY.target, NESTS["none"]), [turn], temperature=0.8)
    assert second.output == fresh.output
    assert second.lane.cache is lane.cache
