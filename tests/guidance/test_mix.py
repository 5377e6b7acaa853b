"""The mixing kernel: what weights, spaces, the plausibility mask and the gate promise."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outrider.guidance.mix import Space, mix

SPACES: tuple[Space, ...] = ("logits", "logprob", "prob")
INF = float("inf")


def rows(seed: int, count: int = 3, vocab: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(count, vocab, generator=generator, dtype=torch.float64)


def distributions(scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-1)


@given(st.integers(0, 1000), st.sampled_from(SPACES), st.integers(0, 2))
def test_sources_without_weight_change_no_bit(seed: int, space: Space, extra: int) -> None:
    """K1, also where such a source excludes tokens."""
    base = rows(seed)
    others = [torch.full_like(base, -INF), rows(seed + 1)][:extra]
    assert torch.equal(mix([base, *others], [1.0, *[0.0] * extra], space=space), base)


@given(
    st.integers(0, 1000),
    st.sampled_from(SPACES[:2]),
    st.floats(-50, 50),
    st.floats(0.1, 3),
    st.integers(0, 1),
)
def test_a_constant_added_to_a_source_changes_no_distribution(
    seed: int, space: Space, constant: float, weight: float, which: int
) -> None:
    """K2."""
    sources = [rows(seed), rows(seed + 1)]
    before = distributions(mix(sources, [weight, 1.0 - weight], space=space))
    sources[which] = sources[which] + constant
    after = distributions(mix(sources, [weight, 1.0 - weight], space=space))
    torch.testing.assert_close(after, before)


@given(st.integers(0, 1000), st.sampled_from(SPACES), st.floats(-3, 3))
def test_equal_sources_with_weights_that_sum_to_one_are_the_base(
    seed: int, space: Space, weight: float
) -> None:
    """K3."""
    base = rows(seed)
    mixed = mix([base, base.clone()], [weight, 1.0 - weight], space=space)
    torch.testing.assert_close(distributions(mixed), distributions(base))


@given(st.integers(0, 1000), st.sampled_from(SPACES), st.floats(0.01, 1.0), st.integers(0, 1))
def test_the_mask_keeps_the_best_token_of_its_source_and_excludes_the_unlikely(
    seed: int, space: Space, alpha: float, reference: int
) -> None:
    """K4."""
    sources = [rows(seed), rows(seed + 1)]
    mixed = mix(sources, [1.0, 0.5], space=space, alpha=alpha, reference=reference)
    probs = distributions(sources[reference])
    masked = probs < alpha * probs.amax(dim=-1, keepdim=True)
    assert bool((distributions(mixed)[masked] == 0.0).all())
    assert bool((mixed[~masked] > -INF).all())
    best = sources[reference].argmax(dim=-1, keepdim=True)
    assert bool((mixed.gather(-1, best) > -INF).all())


def test_sources_must_share_a_vocabulary() -> None:
    """K7."""
    with pytest.raises(ValueError, match=r"vocabulary sizes: \[10, 11\]"):
        mix([rows(0), rows(0, vocab=10)], [1.0, 0.0])
    with pytest.raises(ValueError, match="2 sources, but 1 weights"):
        mix([rows(0), rows(1)], [1.0])
    with pytest.raises(ValueError, match="0 sources"):
        mix([], [])


def test_the_spaces_add_what_they_are_called_by() -> None:
    one, two = rows(0), rows(1)
    torch.testing.assert_close(mix([one, two], [2.0, -1.0]), 2 * one - two)
    logs = 2 * torch.log_softmax(one, -1) - torch.log_softmax(two, -1)
    torch.testing.assert_close(mix([one, two], [2.0, -1.0], space="logprob"), logs)
    shares = (distributions(one) - 0.7 * distributions(two)).clamp(min=0.0)
    mixed = mix([one, two], [1.0, -0.7], space="prob")
    torch.testing.assert_close(mixed.exp(), shares)
    assert bool((mixed[shares == 0.0] == -INF).all())
    assert bool((shares == 0.0).any())


def test_rows_that_the_gate_leaves_out_are_the_base() -> None:
    base, other = rows(0), rows(1)
    gate = torch.tensor([True, False, True])
    mixed = mix([base, other], [2.0, -1.0], gate=gate, alpha=0.1)
    assert torch.equal(mixed[1], base[1])
    assert torch.equal(mixed[gate], mix([base, other], [2.0, -1.0], alpha=0.1)[gate])
    assert not torch.equal(mixed[0], base[0])


@pytest.mark.parametrize(
    ("seen", "null", "scale", "expected"),
    [
        (-INF, 1.0, 2.0, -INF),
        (-INF, -INF, 2.0, -INF),
        (1.0, -INF, 2.0, INF),
        (1.0, -INF, 0.5, -INF),
        (1.0, -INF, 1.0, 1.0),
        (-INF, 1.0, 0.0, 1.0),
    ],
)
def test_what_becomes_of_excluded_tokens(
    seen: float, null: float, scale: float, expected: float
) -> None:
    pair = [torch.tensor([[value, 0.0]], dtype=torch.float64) for value in (seen, null)]
    assert mix(pair, [scale, 1.0 - scale])[0, 0].item() == expected


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_made_in_float32_and_a_row_knows_no_neighbours(kind: Any) -> None:
    one, two = (rows(seed, count=9, vocab=1037).to(kind) for seed in (0, 1))
    mixed = mix([one, two], [1.7, -0.7])
    assert mixed.dtype is torch.float32
    for row in range(9):
        part = slice(row, row + 1)
        assert torch.equal(mix([one[part], two[part]], [1.7, -0.7])[0], mixed[row])
