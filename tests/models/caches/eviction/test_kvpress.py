"""What is kept, against the library kvpress (Apache-2.0), which compresses a prompt after it is
read. It is no dependency; the tests skip where it is not installed."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from outrider.models.caches.eviction.snapkv import SnapKV
from outrider.models.caches.eviction.streaming import Streaming
from tests.models.caches.eviction.setups import (
    Spy,
    begin,
    checkpoint,
    ids,
    model,
    spy,  # noqa: F401
    under,
    write,
)

pytestmark = pytest.mark.slow
TEXT = ids(41, 2)
ROWS = len(TEXT)


def pressed(name: str, **options: Any) -> list[torch.Tensor]:
    """The scores of a press, `[kv_heads, rows]` for each layer of the tiny Llama.

    They are computed behind the forward: kvpress 0.5.5 hooks into arguments that `transformers` 5
    no longer passes.
    """
    kvpress = pytest.importorskip("kvpress", exc_type=ImportError)
    press = getattr(kvpress, name)(**options)
    judge = AutoModelForCausalLM.from_pretrained(
        checkpoint("llama"), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    calls: list[tuple[Any, ...]] = []
    for layer in judge.model.layers:
        layer.self_attn.register_forward_hook(
            lambda module, _, named, out: calls.append((module, named, out[1])), with_kwargs=True
        )
    with torch.no_grad():
        found = judge(torch.tensor([TEXT[:ROWS]]), use_cache=True).past_key_values
        scores = [
            press.score(module, named["hidden_states"], own.keys, own.values, weights, named)[0]
            for (module, named, weights), own in zip(calls, found.layers, strict=True)
        ]
    assert len(scores) == 2
    return scores


def best(scores: list[torch.Tensor], count: int) -> list[list[int]]:
    """The rows that a press keeps, of each layer and head."""
    return [sorted(own.topk(count).indices.tolist()) for layer in scores for own in layer]


@pytest.mark.parametrize("window", [4, 8])
def test_snapkv(window: int, spy: Spy) -> None:  # noqa: F811
    scores = pressed("SnapKVPress", compression_ratio=0.5, window_size=window, kernel_size=5)
    one = model().under(SnapKV(budget=20, window=window, kernel=5, pooling="avg"))
    write(one, begin(one, TEXT), [1])
    [point] = spy.points
    assert [rows.tolist() for rows in point.kept] == best(scores, 20)


def test_streaming(spy: Spy) -> None:  # noqa: F811
    scores = pressed("StreamingLLMPress", compression_ratio=0.5, n_sink=4)
    one = model().under(Streaming(budget=20, chunk=0, positions="original"))
    write(one, begin(one, TEXT), [1])
    [point] = spy.points
    assert [rows.tolist() for rows in point.kept] == best(scores, 20)


def test_observed_attention() -> None:
    """H2O divides by the number of queries likewise, over a prompt that is read at once."""
    scores = pressed("ObservedAttentionPress", compression_ratio=0.5)
    one = under("h2o", budget=100, chunk=0, each=1)
    own = begin(one, TEXT)
    write(one, own, [1])
    for plane in range(4):
        merit = (own._eviction.sums[plane] / own._eviction.seen[plane]).numpy()
        expected = scores[plane // 2][plane % 2].numpy()
        assert np.allclose(merit, expected, atol=1e-4)
