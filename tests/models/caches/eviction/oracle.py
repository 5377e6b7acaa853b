"""A Llama over a whole text at once, whose rows see what a policy left: the judge of runners.

Plain float64 arithmetic on the weights that `transformers` made; nothing of Outrider is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tests.models.caches.eviction.setups import Point
from tests.models.setups.make_checkpoints import make_model


@dataclass
class Layer:
    """What one layer computed for all rows of a text."""

    queries: Tensor  # [rows, heads, dim], turned and scaled
    keys: Tensor  # [rows, kv_heads, dim], not turned
    weights: Tensor  # [heads, rows, rows]


@dataclass
class Judged:
    """The logits after each row, and all layers."""

    logits: Tensor
    layers: list[Layer]


@cache
def _weights() -> tuple[dict[str, Tensor], float]:
    made = make_model("llama", std=0.3, vocab_size=64)
    return {k: v.double() for k, v in made.state_dict().items()}, made.config.rms_norm_eps


HEADS, KV_HEADS, DIM, LAYERS = 4, 2, 8, 2


def turned(x: Tensor, places: Sequence[int] | np.ndarray | Tensor) -> Tensor:
    """Rotary embeddings: `[rows, heads, dim]` at these places."""
    steps = 1 / 10000 ** (torch.arange(0, DIM, 2).float() / DIM)
    angles = torch.outer(torch.as_tensor(places).double(), steps.double())
    cos, sin = (f(torch.cat((angles, angles), dim=1))[:, None] for f in (torch.cos, torch.sin))
    halves = torch.cat((-x[..., DIM // 2 :], x[..., : DIM // 2]), dim=-1)
    return x * cos + halves * sin


def judge(tokens: Sequence[int], points: Sequence[Point] = ()) -> Judged:
    """Read a text in which rows behind a point see what was kept there, and newer rows."""
    w, eps = _weights()

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * w[name]

    count, layers = len(tokens), []
    x = w["model.embed_tokens.weight"][torch.tensor(tokens)]
    for number in range(LAYERS):
        at = f"model.layers.{number}."
        h = norm(x, at + "input_layernorm.weight")
        q, k, v = ((h @ w[f"{at}self_attn.{n}_proj.weight"].T).view(count, -1, DIM) for n in "qkv")
        q = turned(q, np.arange(count)) / DIM**0.5
        weights = torch.zeros(HEADS, count, count, dtype=torch.float64)
        for head in range(HEADS):
            own = head // (HEADS // KV_HEADS)
            for start, stop, seen, places in _spans(count, points, number * KV_HEADS + own):
                keys = turned(k[:, own : own + 1], places)[:, 0]
                scores = q[start:stop, head] @ keys.T
                late = torch.arange(count) > torch.arange(start, stop)[:, None]
                scores = scores.masked_fill(late | ~torch.from_numpy(seen), -torch.inf)
                weights[head, start:stop] = scores.softmax(dim=-1)
        wide = v.repeat_interleave(HEADS // KV_HEADS, dim=1).transpose(0, 1)
        read = (weights @ wide).transpose(0, 1).reshape(count, -1)
        x = x + read @ w[at + "self_attn.o_proj.weight"].T
        h = norm(x, at + "post_attention_layernorm.weight")
        gate, up = (h @ w[f"{at}mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (torch.nn.functional.silu(gate) * up) @ w[at + "mlp.down_proj.weight"].T
        layers.append(Layer(q, k, weights))
    return Judged(norm(x, "model.norm.weight") @ w["lm_head.weight"].T, layers)


def _spans(count: int, points: Sequence[Point], plane: int) -> list[tuple]:
    """Rows from one point to the next, which rows they may see, and where the keys stand."""
    spans = []
    edges = [0, *(point.rows for point in points), count]
    for i, (start, stop) in enumerate(pairwise(edges)):
        seen, places = np.ones(count, dtype=np.bool_), np.arange(count)
        if i:
            point = points[i - 1]
            seen[:start] = False
            seen[point.kept[plane]] = True
            moved = point.kept[plane][: len(point.turns[plane])]
            places[moved] += point.turns[plane]
        if start < stop:
            spans.append((start, stop, seen, places))
    return spans
