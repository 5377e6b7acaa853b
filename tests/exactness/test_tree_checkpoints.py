"""I1 and I3 on real architectures: trees drafted and verified by float64 checkpoints."""

from typing import Any

from outrider.decoding import generate
from outrider.drafters import NoDrafter, Qualified, TreeDrafter
from outrider.policies import FixedLength, FixedTree
from tests.exactness.setups.checkpoints import PROMPTS
from tests.exactness.setups.rigs import Family, generation, outputs, run, stage
from tests.exactness.setups.roster import GROWTHS
from tests.exactness.test_checkpoints import EXACT, KINDS, RUNNERS, cases, family, folders
from tests.models.setups.invariants import assert_equals_fresh_prefill

__all__ = ["family", "folders"]  # fixtures

TREE = FixedTree(depth=4, nodes=12)
WARPS = {
    "greedy": {},
    "t0.8": {"temperature": 0.8},
    "penalties": {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.3},
}


@cases("name sampling", KINDS, RUNNERS, GROWTHS, WARPS)
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


@cases("name", KINDS, EXACT, ["eagle2", "dyspec"], crossed=1)
def test_every_cache_is_fresh_after_every_round(family: Family, name: str) -> None:
    """Nodes of the draft saw their own branch alone, in both models."""
    drafter = TreeDrafter(model=family.draft, growth=GROWTHS[name])
    gs = [generation(p, max_new_tokens=14, temperature=0.8, end_ids=(0,)) for p in PROMPTS[:2]]
    accepted = 0
    for active in generate(stage(family.target, drafter, policy=TREE), gs):
        for g in active:
            assert_equals_fresh_prefill(family.target, g.sequence.cache)
            assert_equals_fresh_prefill(family.draft, g.sequence.state.cache)
            accepted = max(accepted, g.counters.accepted)
    assert accepted > 0
