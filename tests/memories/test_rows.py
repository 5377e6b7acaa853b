import numpy as np
import pytest
import torch

from outrider.memories.rows import best_probabilities, best_tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("vocab", [5, 8, 300])
def test_best_tokens_and_probabilities(dtype: torch.dtype, vocab: int) -> None:
    logits = torch.randperm(4 * vocab).reshape(4, vocab)[:, :vocab].to(dtype) / 16
    logits = logits if dtype is not torch.bfloat16 else logits.float().to(dtype)
    size = min(8, vocab)
    best, likely = best_tokens(logits, 8), best_probabilities(logits, 8)
    expected = logits.double().softmax(-1)
    for row in range(4):
        ids = best.ids[row, :size]
        assert len(set(ids.tolist())) == size
        chosen = logits[row, torch.from_numpy(ids.astype(np.int64))].double()
        assert torch.equal(chosen, logits[row].double().sort(descending=True).values[:size])
        own = expected[row, torch.from_numpy(likely.ids[row, :size].astype(np.int64))]
        assert np.allclose(likely.values[row, :size], own.numpy(), rtol=1e-4, atol=1e-7)
    assert (best.ids[:, size:] == -1).all() and (likely.values[:, size:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_not_finite(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 50, dtype=dtype)
    logits[0, 3], logits[1, 0], logits[2] = torch.nan, torch.inf, -torch.inf
    for best in (best_tokens(logits, 8), best_probabilities(logits, 8)):
        assert (best.ids[:3] == -1).all()
        assert (best.ids[3] >= 0).all()
    assert (best_probabilities(logits, 8).values[:3] == 0).all()


def test_more_tokens_than_the_kernel_keeps() -> None:
    logits = torch.randn(2, 300)
    for best in (best_tokens(logits, 100), best_probabilities(logits, 100)):
        expected = logits.sort(descending=True, stable=True).indices[:, :100]
        assert np.array_equal(best.ids, expected.numpy())
