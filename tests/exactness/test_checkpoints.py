"""I1 on real architectures: float64 checkpoints drafted, undrafted, and by `transformers`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from outrider import kernels
from outrider.decoding import Deferred, generate
from outrider.models.transformers.model import TransformersModel
from tests.exactness.setups.checkpoints import PROMPTS, load_family, make_tiers
from tests.exactness.setups.rigs import (
    SAMPLINGS,
    Family,
    generation,
    nests,
    outputs,
    run,
    stage,
    undrafted,
)
from tests.matrix import matrix
from tests.models.setups.invariants import assert_equals_fresh_prefill

KINDS = ("llama", "qwen2", "qwen3")
RUNNERS = ("eager", "native", "int8") if kernels.available() else ("eager",)
NESTS = ("two", "three", "four")
EXACT = tuple(runner for runner in RUNNERS if runner != "int8")
"""Runners of the weights themselves; rounded ones write other texts."""


@pytest.fixture(scope="module")
def folders(request: Any, tmp_path_factory: Any) -> list[Path]:
    """Target, qualifier, small and draft: each further from the target."""
    return make_tiers(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def family(folders: list[Path], request: Any) -> Family:
    return load_family(folders, request.param)


def cases(names: str, *axes: Any, crossed: int | None = None) -> pytest.MarkDecorator:
    """Kinds, runners, and what `names` says."""
    named = ("folders", "family", *names.split())
    table = matrix(*axes, crossed=crossed)
    return pytest.mark.parametrize(named, table, indirect=["folders", "family"], scope="module")


@cases("nest sampling", KINDS, RUNNERS, NESTS, SAMPLINGS)
def test_drafted_equals_undrafted(family: Family, nest: str, sampling: str) -> None:
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 14, "end_ids": (0,)}
    whole = stage(family.target, nests(family)[nest])
    plain = run(undrafted(whole), PROMPTS, **options)
    assert outputs(run(whole, PROMPTS, **options)) == outputs(plain)
    assert outputs(run(whole, PROMPTS[2:3], **options)) == outputs(plain[2:3])


@cases("nest", KINDS, EXACT, NESTS, crossed=1)
def test_drafts_are_accepted_and_refused(family: Family, nest: str) -> None:
    [g] = run(stage(family.target, nests(family)[nest]), PROMPTS[:1], max_new_tokens=60)
    assert 3 < g.counters.accepted < g.counters.drafted


@cases("", KINDS, EXACT, crossed=1)
def test_greedy_equals_transformers_generate(folders: list[Path], family: Family) -> None:
    judge = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float64)
    drafted = run(stage(family.target, nests(family)["three"]), PROMPTS, max_new_tokens=16)
    for prompt, g in zip(PROMPTS, drafted, strict=True):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        theirs = judge.generate(
            ids, attention_mask=mask, max_new_tokens=16, do_sample=False, pad_token_id=0
        )
        assert tuple(theirs[0, len(prompt) :].tolist()) == tuple(g.output)


@cases("", KINDS, RUNNERS, crossed=1)
def test_runners_may_be_mixed(folders: list[Path], family: Family) -> None:
    """A draft model that runs through `transformers` under a target that does not."""
    built = AutoModelForCausalLM.from_pretrained(folders[3], dtype=torch.float64)
    mixed = Family(family.target, family.qualifier, family.small, TransformersModel(built))
    options: dict[str, Any] = {"temperature": 0.8, "max_new_tokens": 16}
    whole = stage(family.target, nests(mixed)["three"])
    assert outputs(run(whole, PROMPTS[:3], **options)) == outputs(
        run(undrafted(whole), PROMPTS[:3], **options)
    )


def tiers(sequence: Any) -> list[tuple[Any, str]]:
    """The caches of one request, outermost first, with the family member that owns each."""
    found, names = [(sequence.cache, "target")], ["qualifier", "small"]
    state = sequence.state
    while hasattr(state, "sequence"):
        found.append((state.sequence.cache, names.pop(0)))
        state = state.sequence.state
    return [*found, (state.cache, "draft")]


@cases("nest", KINDS, RUNNERS, NESTS, crossed=1)
def test_every_cache_is_fresh_after_every_round(family: Family, nest: str) -> None:
    """I3, at every tier."""
    gs = [generation(p, max_new_tokens=14, temperature=0.8, end_ids=(0,)) for p in PROMPTS[:2]]
    whole = stage(family.target, nests(family)[nest])
    for active in generate(whole, gs):
        Deferred(drafter=whole.drafter).settle([g.sequence.drafting for g in active])
        for g in active:
            for cache, member in tiers(g.sequence):
                assert_equals_fresh_prefill(getattr(family, member), cache)
                assert list(cache.text) == [*g.request.prompt.token_ids, *g.output]
