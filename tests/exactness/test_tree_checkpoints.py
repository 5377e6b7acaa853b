"""I1 and I3 on real architectures: trees drafted and verified by float64 checkpoints."""

from typing import Any

import pytest

from outrider.decoding import generate
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
from outrider.policies import FixedLength, FixedTree
from tests.exactness.setups.rigs import Family, generation, outputs, run, stage
from tests.exactness.setups.sparse import sparse
from tests.exactness.test_checkpoints import PROMPTS, family, folders, skip_int8
from tests.models.invariants import assert_equals_fresh_prefill

__all__ = ["family", "folders"]  # fixtures

GROWTHS: dict[str, Growth] = {
    "top_k": TopK((3, 2, 1, 1)),
    "eagle2": Eagle2(width=4),
    "dyspec": DySpec(),
    "dyspec_levels": DySpecLevels(),
    "rsd_c": RsdC((2, 2, 1)),
    "rsd_s": RsdS(3),
    "iid": IidTree(3),
}
TREE = FixedTree(depth=4, nodes=12)
WARPS = {
    "greedy": {},
    "t0.8": {"temperature": 0.8},
    "penalties": {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.3},
}


@pytest.mark.parametrize(("name", "sampling"), sparse(GROWTHS, WARPS, 3))
def test_drafted_equals_undrafted(family: Family, name: str, sampling: str) -> None:
    options: dict[str, Any] = {**WARPS[sampling], "max_new_tokens": 14, "end_ids": (0,)}
    drafter = TreeDrafter(model=family.draft, growth=GROWTHS[name])
    plain = outputs(run(stage(family.target, NoDrafter()), PROMPTS, **options))
    assert outputs(run(stage(family.target, drafter, policy=TREE), PROMPTS, **options)) == plain
    nest = Qualified(
        drafter=drafter, qualifier=family.qualifier, policy=FixedTree(depth=3, nodes=7)
    )
    whole = stage(family.target, nest, policy=FixedLength(4))
    assert outputs(run(whole, PROMPTS[:2], **options)) == plain[:2]


@pytest.mark.parametrize("name", ["eagle2", "dyspec"])
def test_every_cache_is_fresh_after_every_round(family: Family, name: str) -> None:
    """Nodes of the draft saw their own branch alone, in both models."""
    skip_int8(family)
    drafter = TreeDrafter(model=family.draft, growth=GROWTHS[name])
    gs = [generation(p, max_new_tokens=14, temperature=0.8, end_ids=(0,)) for p in PROMPTS[:2]]
    accepted = 0
    for active in generate(stage(family.target, drafter, policy=TREE), gs):
        for g in active:
            assert_equals_fresh_prefill(family.target, g.lane.cache)
            assert_equals_fresh_prefill(family.draft, g.lane.state.cache)
            accepted = max(accepted, g.counters.accepted)
    assert accepted > 0
