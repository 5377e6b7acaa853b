"""I5: whatever a drafter does, the text stays; whatever the target does, only one request ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from outrider.acceptance import Match
from outrider.core.types import Draft, FinishReason, as_ids
from outrider.decoding import generate
from outrider.drafters import ModelDrafter, NoDrafter, Qualified
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength
from tests.exactness.setups.rigs import (
    PROMPTS,
    generation,
    nests,
    outputs,
    run,
    stage,
    tabular_family,
)

FAMILY = tabular_family(seed=3)


@dataclass(frozen=True)
class Wild(NoDrafter):
    """Proposes random trees, far too deep, with ids that do not exist and probes among them."""

    name: str = "wild"
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        return [self._tree() for _ in states]

    def _tree(self) -> Draft:
        size = int(self.rng.integers(0, 14))
        parents = as_ids([int(self.rng.integers(-1, i)) for i in range(size)])
        return Draft(
            tokens=self.rng.integers(-2, 10, size),
            parents=parents,
            sources=("wild",) * size,
            probe=self.rng.random(size) < 0.2,
        )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_wild_trees_change_nothing(temperature: float) -> None:
    options = {"temperature": temperature, "end_ids": (0,), "max_new_tokens": 60}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options)
    wild = run(stage(FAMILY.target, Wild()), PROMPTS, **options)
    assert outputs(wild) == outputs(plain)
    inner = Qualified(drafter=Wild(), qualifier=FAMILY.qualifier, policy=FixedLength(4))
    nested = run(stage(FAMILY.target, inner), PROMPTS, **options)
    assert outputs(nested) == outputs(plain)
    assert sum(g.counters.accepted for g in wild) > 0


def poisoned(model: TabularModel, context: tuple[int, ...]) -> TabularModel:
    table = model.table.clone()
    table[context] = torch.nan
    return TabularModel(table, name="poisoned")


@pytest.mark.parametrize("tier", ["draft", "qualifier"])
def test_nan_below_switches_the_drafter_off(tier: str) -> None:
    bad = poisoned(FAMILY.draft, (slice(None), 2))
    draft = ModelDrafter(model=bad if tier == "draft" else FAMILY.draft)
    nest = Qualified(drafter=draft, qualifier=bad if tier == "qualifier" else FAMILY.qualifier)
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, temperature=1.0)
    drafted = run(stage(FAMILY.target, nest), PROMPTS, temperature=1.0)
    assert outputs(drafted) == outputs(plain)
    states = [g.sequence.state for g in drafted]
    off = [s.off if tier == "qualifier" else s.sequence.state.off for s in states]
    assert any(reason and "poisoned" in reason for reason in off)


def test_nan_from_the_target_ends_that_request_alone() -> None:
    bad = poisoned(FAMILY.target, (6, 6))
    prompts = [(1, 2, 3), (6, 6), (4,)]
    got = run(stage(bad, nests(FAMILY)["three"]), prompts, max_new_tokens=5)
    assert got[1].finish is FinishReason.ERROR
    assert "poisoned" in str(got[1].error) and got[1].output == []
    for i in (0, 2):
        [alone] = run(stage(bad, NoDrafter()), [prompts[i]], max_new_tokens=5)
        assert got[i].output == alone.output and got[i].finish is FinishReason.LENGTH


def test_cancelled_between_rounds_and_the_others_go_on() -> None:
    prompts = [(1, 2, 3), (4,), (5, 5)]
    gs = [generation(p, max_new_tokens=30, temperature=1.0) for p in prompts]
    for n, _ in enumerate(generate(stage(FAMILY.target, nests(FAMILY)["three"]), gs)):
        if n == 1:
            gs[1].cancel()
    assert gs[1].finish is FinishReason.CANCELLED and 0 < len(gs[1].output) < 30
    for i in (0, 2):
        options = {"max_new_tokens": 30, "temperature": 1.0}
        [alone] = run(stage(FAMILY.target, NoDrafter()), [prompts[i]], **options)
        assert gs[i].output == alone.output


@pytest.mark.parametrize("small", ["draft", "qualifier", "both"])
def test_a_full_window_below_leaves_the_request_undrafted(small: str) -> None:
    def window(model: TabularModel, tier: str) -> TabularModel:
        length = 12 if small in (tier, "both") else 1 << 20
        return TabularModel(model.table, context_length=length, name=tier)

    nest = Qualified(
        drafter=ModelDrafter(model=window(FAMILY.draft, "draft")),
        qualifier=window(FAMILY.qualifier, "qualifier"),
    )
    prompts = [*PROMPTS, tuple([1, 2] * 8)]
    plain = run(stage(FAMILY.target, NoDrafter()), prompts, temperature=0.9)
    drafted = run(stage(FAMILY.target, nest), prompts, temperature=0.9)
    assert outputs(drafted) == outputs(plain)
    assert sum(g.counters.accepted for g in drafted[:-1]) > 0
    if small != "draft":
        assert all(g.counters.undrafted_rounds > 0 for g in drafted)


def test_the_target_window_ends_the_text() -> None:
    target = TabularModel(FAMILY.target.table, context_length=20)
    for nest in nests(FAMILY).values():
        [g] = run(stage(target, nest), [(1, 2, 3)], max_new_tokens=100)
        assert len(g.output) == 17 and g.finish is FinishReason.LENGTH


def test_wider_drafts_never_leave_the_targets_vocabulary() -> None:
    wide = torch.full((9, 9, 9), -1.0, dtype=torch.float64)
    wide[:7, :7, :7] = FAMILY.draft.table
    wide[..., 8] = 9.0
    drafter = ModelDrafter(model=TabularModel(wide))
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, temperature=1.0)
    assert outputs(run(stage(FAMILY.target, drafter, Match()), PROMPTS, temperature=1.0)) == (
        outputs(plain)
    )


@pytest.mark.parametrize("narrow", ["draft", "qualifier"])
def test_a_narrower_tier_below_is_left_out_once_it_can_not_read(narrow: str) -> None:
    """The target writes ids that a tier below does not have."""
    cut = TabularModel(FAMILY.draft.table[:5, :5, :5], name="narrow")
    nest = Qualified(
        drafter=ModelDrafter(model=cut if narrow == "draft" else FAMILY.draft),
        qualifier=cut if narrow == "qualifier" else FAMILY.qualifier,
    )
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, temperature=1.0)
    drafted = run(stage(FAMILY.target, nest), PROMPTS, temperature=1.0)
    assert outputs(drafted) == outputs(plain)
    assert any(token >= 5 for g in drafted for token in g.output)
    assert sum(g.counters.accepted for g in drafted) > 0
