"""The tensors of a cost-scaled model, and why it writes the same text as the small one.

Depth: filler layers are inserted between the real ones. Their matrices are noise at the scale of
the real ones, but their norms and biases are so small that their contribution to the residual
stream is rounded away. Output projections of zeros would give the same outputs, but some engines
detect equal constants and keep one of them (OpenVINO removed a quarter of all weights).

Width by a power of two `f`: the residual stream holds `f` copies of every channel, the attention
`f` copies of every query head, the MLP `f` copies of every inner channel. A matrix is repeated for
each pair of copies and divided by `f`, so each output is the sum of `f` equal parts. The mean
square in a norm equals that of the small model, so norms and their epsilon do not change. Division
by a power of two is exact.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from outrider.bench.scaling.plan import ScaledPlan, key_copies
from outrider.models.checkpoints.checkpoint import Checkpoint, load_tensors
from outrider.models.llama.weights import EMBED, HEAD, NORM

FAINT = 2.0**-60
"""Scale of the contribution of a filler layer: below the last bit of a residual stream, in float64
too, and far above the smallest float32 and bfloat16. In float16 it is zero.
"""

_FAINT = {
    "input_layernorm.weight": FAINT,
    "v_proj.bias": FAINT,
    "o_proj.bias": FAINT,
    "post_attention_layernorm.weight": FAINT**0.5,
    "gate_proj.bias": FAINT**0.5,
    "up_proj.bias": FAINT**0.5,
    "down_proj.bias": FAINT,
}
"""Tensors that are small in a filler layer. The MLP multiplies two small factors."""

_AXES = {
    "q_proj": ("queries", "hidden"),
    "k_proj": ("keys", "hidden"),
    "v_proj": ("keys", "hidden"),
    "o_proj": ("hidden", "queries"),
    "gate_proj": ("inner", "hidden"),
    "up_proj": ("inner", "hidden"),
    "down_proj": ("hidden", "inner"),
}
"""Kinds of the outputs and the inputs of each matrix."""


def outer_tensors(
    plan: ScaledPlan, device: torch.device | str, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return embedding, final norm and head by name; `dtype` None keeps that of the file.

    The head would sum the copies of a channel. The final norm compensates for it instead of the
    head, because the head may be tied to the embedding.
    """
    names = [name for name in (EMBED, NORM, HEAD) if name in plan.source.tensors]
    tensors = _load(plan.source, names, device, dtype)
    copied = {name: tensor.tile(plan.widen) for name, tensor in tensors.items()}
    copied[NORM] = copied[NORM] / plan.widen
    return copied


def layer_tensors(
    plan: ScaledPlan, layer: int, device: torch.device | str, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return the tensors of one large layer, named without `model.layers.N.`."""
    origin = plan.origins[layer]
    prefix = f"model.layers.{origin}."
    names = [n for n in plan.source.tensors if n.startswith(prefix) and "rotary_emb" not in n]
    loaded = _load(plan.source, names, device, dtype)
    own = {name.removeprefix(prefix): _widen(plan, name, t) for name, t in loaded.items()}
    if layer > 0 and plan.origins[layer - 1] == origin:
        generator = torch.Generator(device).manual_seed(layer)
        return {name: _filler(name, tensor, generator) for name, tensor in own.items()}
    return own


def _load(
    source: Checkpoint, names: list[str], device: torch.device | str, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}
    loaded: dict[str, Tensor] = {}
    for name in sorted(names):
        own = kinds.get(source.tensors[name].dtype, torch.bfloat16)
        loaded |= load_tensors(source, [name], dtype or own, device)
    return loaded


def _filler(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Make a tensor of a filler layer: noise like real weights, norms unchanged, some of them
    small.
    """
    part = name.removeprefix("self_attn.").removeprefix("mlp.")
    if "norm" in name:
        return like * _FAINT.get(part, 1)
    noise = torch.empty_like(like).normal_(generator=generator)
    return noise * like.float().std(correction=0).to(like) * _FAINT.get(part, 1)


def _widen(plan: ScaledPlan, name: str, tensor: Tensor) -> Tensor:
    if plan.widen == 1 or name.endswith(("q_norm.weight", "k_norm.weight")):
        return tensor
    matrix = name.split(".")[-2]
    if matrix not in _AXES:  # a norm over the hidden channels
        return tensor.tile(plan.widen)
    outputs, inputs = _AXES[matrix]
    rows = tensor[_copies(plan, outputs).to(tensor.device)]
    if tensor.dim() == 1:
        return rows
    return rows[:, _copies(plan, inputs).to(tensor.device)] / plan.widen


def _copies(plan: ScaledPlan, axis: str) -> Tensor:
    """Return for each large channel of `axis` the small one that it copies."""
    small = plan.small
    if axis == "hidden":
        return torch.arange(small.hidden_size).tile(plan.widen)
    if axis == "inner":
        return torch.arange(small.intermediate_size).tile(plan.widen)
    heads = torch.tensor(list(_heads(plan) if axis == "queries" else _key_heads(plan)))
    return (heads[:, None] * small.head_dim + torch.arange(small.head_dim)).flatten()


def _key_heads(plan: ScaledPlan) -> Iterator[int]:
    for _ in range(key_copies(plan.small, plan.widen)):
        yield from range(plan.small.num_kv_heads)


def _heads(plan: ScaledPlan) -> Iterator[int]:
    """Yield key heads so that each is read by copies of the query heads of its small one."""
    group = plan.small.num_heads // plan.small.num_kv_heads
    for key_head in _key_heads(plan):
        for _ in range(plan.widen // key_copies(plan.small, plan.widen)):
            yield from range(key_head * group, (key_head + 1) * group)
