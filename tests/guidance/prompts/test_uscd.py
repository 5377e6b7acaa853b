"""USCD (arXiv 2409.05923) computes what its paper says, on distributions that are known."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, IntArray, Prompt, Rows, as_ids
from outrider.guidance.prompts.uscd import Uncertain, Uscd, collision
from outrider.guidance.recipe import Parts
from outrider.models.tabular import TabularCache, TabularModel
from outrider.protocols import Cache, LanguageModel, Segment
from outrider.strategy.guiding import recipe_of

pytestmark = pytest.mark.method("uscd")
INF = float("inf")
SURE = (0.9, 0.04, 0.03, 0.02, 0.01)
"""Collision probability 0.81."""
UNSURE = (0.4, 0.3, 0.2, 0.06, 0.04)
"""0.295; the floor of a third of the mean is 0.0667."""
LAME = (0.6, 0.1, 0.1, 0.1, 0.1)


class Counted(TabularModel):
    """Notes the tokens that each forward since the start reads, for each text."""

    def __init__(self, *probs: Sequence[float]) -> None:
        super().__init__(torch.tensor(probs, dtype=torch.float64).log())
        self.read: list[list[int]] = []

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[TabularCache]:
        caches = super().start(prompts, reuse)
        self.read.clear()
        return caches

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        self.read.append([len(s.tokens) for s in segments])
        return super().forward(segments, want)


def model() -> Counted:
    """After token 0 it is sure, after 1 unsure; 2 ends the lame prompt."""
    return Counted(SURE, UNSURE, LAME, UNSURE, SURE)


def prompt(last: int, lame: int | None = 2) -> Prompt:
    other = None if lame is None else Prompt(token_ids=(lame,))
    return replace(Prompt(token_ids=(3, last)), contrast=other)


def row(text: Prompt, target: TabularModel | None = None, **options: Any) -> Tensor:
    """The logits after a prompt."""
    guided = Uscd(**options).build(Parts(target=target or model(), models={}))
    [cache] = guided.start([text])
    [rows] = guided.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
    return rows.logits[0]


def expected(strength: float = 0.7, floor: float = 1 / 15) -> Tensor:
    p, q = torch.tensor([UNSURE, LAME], dtype=torch.float64)
    kept = torch.where(p < floor, 0.0, p) - strength * torch.where(p < floor, 0.0, q)
    return kept.clamp(min=0.0).log()


class TestScores:
    def test_an_uncertain_step_is_the_logarithm_of_the_difference_of_probabilities(self) -> None:
        found = row(prompt(1))
        torch.testing.assert_close(found, expected())
        # 0.4 < 0.7 * 0.6 excludes the likeliest token; the last two lie below the floor.
        assert (found == -INF).tolist() == [True, False, False, True, True]

    def test_the_floor_excludes_tokens_and_can_be_switched_off(self) -> None:
        found = row(prompt(1), strength=0.3, floor=0.0)
        torch.testing.assert_close(found, expected(0.3, 0.0))
        assert float(found[3]) > -INF == float(row(prompt(1), strength=0.3)[3])

    def test_the_floor_is_a_share_of_the_mean_probability(self) -> None:
        just_below, just_above = 0.06 * 5 - 1e-6, 0.06 * 5 + 1e-6
        assert float(row(prompt(1), strength=0.3, floor=just_below)[3]) > -INF
        assert float(row(prompt(1), strength=0.3, floor=just_above)[3]) == -INF

    def test_a_confident_step_is_untouched(self) -> None:
        target = model()
        assert torch.equal(row(prompt(0), target), target.logits_after((0,)))
        assert not torch.equal(row(prompt(0), confident=0.82), target.logits_after((0,)))

    def test_without_strength_it_is_the_model(self) -> None:
        target = model()
        assert torch.equal(row(prompt(1), target, strength=0.0), model().logits_after((1,)))
        assert target.read == [[0]]

    def test_if_every_token_is_excluded_the_model_decides(self) -> None:
        text = prompt(1, lame=3)  # the lame prompt says the same
        assert torch.equal(row(text, strength=1.5), model().logits_after((1,)))
        assert torch.equal(row(prompt(1), floor=2.1), model().logits_after((1,)))

    def test_prompts_without_a_lame_one_are_not_guided(self) -> None:
        assert torch.equal(row(prompt(1, None)), model().logits_after((1,)))


class TestGate:
    def test_it_is_the_collision_probability(self) -> None:
        logits = torch.tensor([SURE, UNSURE]).double().log()
        torch.testing.assert_close(
            collision(logits), torch.tensor([0.813, 0.2952], dtype=torch.float64)
        )
        assert Uncertain(0.4)(logits).tolist() == [False, True]
        assert Uncertain(0.295)(logits).tolist() == [False, False]

    @pytest.mark.parametrize(("vocab", "theirs"), [(32_000, True), (100_000, False)])
    def test_the_bound_of_the_public_code_depends_on_the_vocabulary(
        self, vocab: int, theirs: bool
    ) -> None:
        """Their gate takes a step as confident if the standard deviation is above 0.0035: with
        100,000 tokens, not even the surest one is."""
        surest = torch.full((1, vocab), -60.0)
        surest[0, 7] = 0.0
        assert (float(surest.softmax(-1).std()) > 0.0035) is theirs
        assert Uncertain(0.4)(surest).tolist() == [False]

    def test_half_precision_is_widened(self) -> None:
        flat = torch.zeros(1, 60_000, dtype=torch.bfloat16)
        assert float(collision(flat)) == pytest.approx(1 / 60_000, rel=1e-3)

    def test_one_contrasts_every_step_in_one_forward(self) -> None:
        target = model()
        found = row(prompt(0), target, confident=1.0, floor=0.0)
        p, q = torch.tensor([SURE, LAME], dtype=torch.float64)
        torch.testing.assert_close(found, (p - 0.7 * q).clamp(min=0.0).log())
        assert target.read == [[0, 0]]


class TestLaziness:
    def test_the_lame_prompt_is_read_at_uncertain_steps_and_catches_up(self) -> None:
        target = Counted(SURE, UNSURE, LAME, UNSURE, SURE)
        guided = Uscd().build(Parts(target=target, models={}))
        [cache] = guided.start([prompt(0)])
        for token in (0, 4, 1):
            guided.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
            cache.commit((token,))
        assert target.read == [[0]] * 3
        [rows] = guided.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
        assert target.read[3:] == [[0], [0]]
        # Both prompts now end with the same written token, so q equals p.
        p = torch.tensor(UNSURE, dtype=torch.float64)
        kept = torch.where(p < 1 / 15, 0.0, 0.3 * p)
        torch.testing.assert_close(rows.logits[0], kept.log())

    def test_only_uncertain_rows_of_a_draft_are_asked_for(self) -> None:
        target = model()
        guided: LanguageModel = Uscd().build(Parts(target=target, models={}))
        [cache] = guided.start([prompt(0)])
        [rows] = guided.forward([Segment(cache, as_ids((4, 1, 0)))], [as_ids((-1, 0, 1, 2))])
        assert target.read == [[3], [3]]
        plain = [model().logits_after((last,)) for last in (0, 4, 1, 0)]
        changed = [not torch.equal(a, b) for a, b in zip(rows.logits, plain, strict=True)]
        assert changed == [False, False, True, False]


class TestOptions:
    def test_the_expression(self) -> None:
        assert recipe_of("uscd") == Uscd()
        assert str(recipe_of("uscd(strength=0.5,confident=1)")) == "uscd(strength=0.5,confident=1)"

    @pytest.mark.parametrize(
        "options", [{"strength": -0.1}, {"confident": 1.1}, {"floor": -1}, {"strength": INF}]
    )
    def test_what_is_out_of_range(self, options: dict[str, float]) -> None:
        [name] = options
        with pytest.raises(OptionError, match=name):
            Uscd(**options)
