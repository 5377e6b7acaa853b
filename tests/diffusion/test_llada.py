"""LLaDA (arXiv 2502.09992): blocks, quotas, and the choice of tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.diffusion import Denoising, Drawing
from outrider.diffusion.proposals import Proposals
from outrider.diffusion.rule import blocks_of
from outrider.diffusion.rules.low_confidence import LowConfidence
from outrider.diffusion.steps import quotas, steps_of
from outrider.models.denoisers.tabular import TabularDenoiser
from outrider.protocols.denoiser import Reading
from tests.diffusion.models import PROMPT, PairDenoiser, answered

pytestmark = pytest.mark.method("low-confidence")

CONFIDENCES = ["probability", "margin", "entropy", "random", "left"]


@given(masks=st.integers(1, 200), steps=st.integers(1, 250))
def test_quotas_sum_to_the_block_and_differ_by_one_at_most(masks: int, steps: int) -> None:
    found = quotas(masks, steps)
    assert sum(found) == masks and len(found) == min(steps, masks)
    assert found == sorted(found, reverse=True) and found[0] - found[-1] <= 1 and found[-1] >= 1


@given(slots=st.integers(1, 60), block=st.integers(1, 20), data=st.data())
def test_steps_are_split_over_the_blocks(slots: int, block: int, data: st.DataObject) -> None:
    blocks = blocks_of(slots, block)
    assert sum(map(len, blocks)) == slots and {len(one) for one in blocks[:-1]} <= {block}
    steps = data.draw(st.integers(len(blocks), slots))
    split = steps_of(blocks, steps)
    assert sum(split) == steps and min(split) >= 1
    assert all(n <= len(one) for n, one in zip(split, blocks, strict=True))


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize(("slots", "block", "steps"), [(12, 4, 6), (14, 4, 7), (13, None, 5)])
def test_rounds_commit_the_quota_inside_the_active_block(
    confidence: str, slots: int, block: int | None, steps: int
) -> None:
    request = answered(LowConfidence(block=block, steps=steps, confidence=confidence), slots)
    blocks = blocks_of(slots, block)
    split = steps_of(blocks, steps)
    expected = [
        (one, n) for one, own in zip(blocks, split, strict=True) for n in quotas(len(one), own)
    ]
    assert len(request.trace) == steps == request.trace.forwards
    for (one, n), done in zip(expected, request.trace.rounds, strict=True):
        assert len(done.slots) == n
        assert ((done.slots >= one.start) & (done.slots < one.stop)).all()


def test_blocks_of_one_slot_are_written_strictly_from_left_to_right() -> None:
    request = answered(LowConfidence(block=1, steps=12), temperature=0.7)
    assert request.trace.slots == list(range(12))
    assert [len(one.slots) for one in request.trace.rounds] == [1] * 12
    left = answered(LowConfidence(block=5, confidence="left"), temperature=0.7)
    assert left.trace.slots == list(range(12))


def test_the_surest_tokens_are_committed() -> None:
    """Against a plain computation of the first round."""
    model = PairDenoiser()
    ids = np.array([*PROMPT, *[model.mask_id] * 6])
    [logits] = model.read([Reading(ids=ids, want=np.arange(3, 9))])
    probs = torch.softmax(logits, -1)
    best = probs.topk(2).values
    scores = {
        "probability": best[:, 0],
        "margin": best[:, 0] - best[:, 1],
        "entropy": (probs * probs.clamp_min(1e-300).log()).sum(-1),
    }
    for confidence, score in scores.items():
        rule = LowConfidence(block=6, steps=3, confidence=confidence)
        one = Denoising(model, PROMPT, rule, max_new_tokens=6).step()
        assert one.slots.tolist() == score.argsort(descending=True)[:2].tolist()
        assert one.tokens.tolist() == probs.argmax(-1)[one.slots].tolist()
        assert one.probs == pytest.approx(best[one.slots, 0].numpy())


def test_a_random_order_depends_on_the_seed_only() -> None:
    rule = LowConfidence(block=None, confidence="random")
    orders = {tuple(answered(rule, seed=seed).trace.slots) for seed in range(6)}
    assert len(orders) == 6
    other = answered(rule, seed=0, scale=0.1).trace.slots
    assert tuple(other) in orders


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_with_exponential_noise_have_the_frequencies_of_softmax(temperature: float) -> None:
    """Chi-square of `argmax exp(l) / (-log U)^T` against softmax(l / T), 5 tokens, 6000 draws."""
    logits = torch.tensor([0.3, -1.2, 1.1, 0.0, -0.4], dtype=torch.float64)
    slots, rounds = np.arange(300), range(20)
    counts = np.zeros(5)
    for number in rounds:
        drawing = Drawing(temperature=temperature, seed=11)
        found = Proposals.of(logits.expand(300, -1), slots, drawing, number)
        counts += np.bincount(found.tokens, minlength=5)
        assert found.confident == pytest.approx(torch.softmax(logits, 0).numpy()[found.tokens])
    expected = torch.softmax(logits / temperature, 0).numpy() * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < 18.47  # the 0.999 quantile for four degrees of freedom


def test_truncated_draws_are_those_of_the_kept_tokens() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64).expand(400, -1)
    drawing = Drawing(temperature=1.0, top_k=2, seed=1)
    found = Proposals.of(logits, np.arange(400), drawing, 0)
    assert set(found.tokens) == {0, 1}
    share = (found.tokens == 0).mean()
    assert abs(share - 1 / (1 + np.exp(-1))) < 0.08
    assert found.confident[0] < 0.65, "the confidence is that before truncation"
    nucleus = Proposals.of(logits, np.arange(400), Drawing(temperature=1.0, top_p=0.6), 0)
    assert set(nucleus.tokens) == {0}


def test_one_token_a_round_draws_from_the_joint_distribution() -> None:
    """Any fixed order of exact conditionals is a draw from the joint; chi-square over 9 texts."""
    model = TabularDenoiser.random(vocab_size=3, length=2, scale=1.0, seed=4)
    counts = np.zeros((3, 3))
    for seed in range(900):
        drawing = Drawing(temperature=1.0, seed=seed)
        rule = LowConfidence(confidence="random")
        first, second = Denoising(model, [], rule, max_new_tokens=2, drawing=drawing).run()[0]
        counts[first, second] += 1
    expected = np.zeros((3, 3))
    joint = model._joint
    for text, weight in zip(joint.texts, joint.weights, strict=True):
        expected[tuple(text)] = 900 * weight
    assert ((counts - expected) ** 2 / expected).sum() < 26.1  # 0.999 quantile, eight degrees
