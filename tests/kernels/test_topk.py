"""The compiled best tokens of rows are those that torch finds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider import kernels

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())


@pytest.mark.parametrize("k", [1, 8, 10, 64])
@pytest.mark.parametrize("vocab", [64, 65, 4096, 65536 + 7, 256_000])
def test_equals_torch(vocab: int, k: int) -> None:
    logits = torch.randn(3, vocab) * 3
    ids, values, totals = kernels.topk(logits, k, totals=True)
    expected = logits.topk(k)
    assert np.array_equal(ids, expected.indices.numpy())
    assert np.array_equal(values, expected.values.numpy())
    assert np.allclose(totals, logits.logsumexp(-1).numpy(), rtol=1e-5)


@given(
    vocab=st.integers(1, 200),
    k=st.integers(1, 12),
    kinds=st.integers(1, 4),
    seed=st.integers(0, 2**30),
)
def test_of_equal_scores_the_lowest_id_comes_first(
    vocab: int, k: int, kinds: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, kinds, (2, vocab), generator=generator).float()
    ids, values, _ = kernels.topk(logits, k)
    for row in range(2):
        ranked = sorted(range(vocab), key=lambda t: (-float(logits[row, t]), t))[:k]
        assert ids[row].tolist() == ranked + [-1] * (k - len(ranked))
        assert values[row, : len(ranked)].tolist() == logits[row, ranked].tolist()


@pytest.mark.parametrize("place", [0, 63, 64, 4095, 4099])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_have_no_tokens(place: int, bad: float) -> None:
    logits = torch.randn(3, 4100)
    logits[1, place] = bad
    ids, _, _ = kernels.topk(logits, 8)
    assert (ids[1] == -1).all()
    assert (ids[[0, 2]] >= 0).all()


def test_tokens_that_are_not_allowed() -> None:
    logits = torch.full((2, 100), -torch.inf)
    logits[0, [7, 50]] = torch.tensor([1.0, 2.0])
    ids, values, _ = kernels.topk(logits, 4)
    assert ids[0, :2].tolist() == [50, 7]
    assert np.isneginf(values[0, 2:]).all()
    assert (ids[1] == -1).all()


def test_rows_of_a_wider_matrix() -> None:
    wide = torch.randn(6, 500)
    view = wide[::2, :300]
    assert np.array_equal(kernels.topk(view, 5)[0], view.topk(5).indices.numpy())
