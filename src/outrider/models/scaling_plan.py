"""What a cost-scaled model looks like: how deep, how wide, and each of its tensors.

Depth: filler layers stand between the real ones. Their matrices are noise at the scale of the
real ones, but their norms and biases are so faint that what they add to the residual stream is
rounded away. Output projections of zeros would do as well, were there not engines that notice
equal constants and keep one of them (with OpenVINO a quarter of all weights was gone).

Width by a power of two `f`: the residual stream holds `f` copies of every channel, the attention
`f` copies of every query head, the MLP `f` copies of every inner channel. A matrix is laid out
for each pair of copies and divided by `f`, so each output sums `f` equal shares. The mean square
that a norm divides by is that of the small model, hence norms and their epsilon stay as they are;
dividing by a power of two loses no bit.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from outrider.errors import OptionError
from outrider.models.checkpoint import Checkpoint, load_tensors
from outrider.models.decoder_config import DecoderConfig, read_config
from outrider.models.decoder_weights import EMBED, HEAD, NORM, check_tensors, expected_shapes

LABEL = "outrider_cost_scaled"
"""The key of config.json that says a model is cost-scaled."""

WIDEST = 4096
"""The hidden size that automatic widening stops at."""

FAINT = 2.0**-60
"""Scale of what a filler layer adds: below the last bit of a residual stream, in float64 too, and
far above the smallest float32 and bfloat16. In float16 it is zero."""

_FAINT = {
    "input_layernorm.weight": FAINT,
    "v_proj.bias": FAINT,
    "o_proj.bias": FAINT,
    "post_attention_layernorm.weight": FAINT**0.5,
    "gate_proj.bias": FAINT**0.5,
    "up_proj.bias": FAINT**0.5,
    "down_proj.bias": FAINT,
}
"""What makes a filler layer faint. The MLP multiplies two faint things with each other."""

_AUTO_WIDEN_FROM = 10**9
_USUAL_KV_HEADS = 8
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}
_SPEC = re.compile(r"(?:x(?P<factor>\d+(?:\.\d+)?)|(?P<size>\d+(?:\.\d+)?)(?P<unit>[KMB]))")
_AXES = {
    "q_proj": ("queries", "hidden"),
    "k_proj": ("keys", "hidden"),
    "v_proj": ("keys", "hidden"),
    "o_proj": ("hidden", "queries"),
    "gate_proj": ("inner", "hidden"),
    "up_proj": ("inner", "hidden"),
    "down_proj": ("hidden", "inner"),
}
"""What the outputs and the inputs of each matrix are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledPlan:
    """A small checkpoint and the large shape it is given.

    Attributes:
        source: the small checkpoint.
        spec: as the user wrote it, such as `30M`.
        widen: copies of every channel.
        small: the shape of `source`.
        large: the shape it gets.
        origins: for each large layer the small layer it is, or is modelled on.
        config: config.json of the large model, its label included.
    """

    source: Checkpoint
    spec: str
    widen: int
    small: DecoderConfig
    large: DecoderConfig
    origins: tuple[int, ...]
    config: dict[str, Any]

    @property
    def num_parameters(self) -> int:
        """Numbers in the large model, a tied head counted once."""
        return count_parameters(self.large)


def make_plan(source: Checkpoint, spec: str, widen: int | None = 1) -> ScaledPlan:
    """Choose depth and width.

    Args:
        source: the small checkpoint.
        spec: `30M`, `8B`: at least that many parameters; `x4`: that many times its own.
        widen: copies of every channel, a power of two; None picks them for specs of 1B and more,
            towards a hidden size of 4096.

    Raises:
        OptionError: a spec or a width that can not be read, or below the model's own size.
        CheckpointError: a checkpoint that `Decoder` does not run.
    """
    small = read_config(source.config)
    check_tensors(source, small)
    goal = _goal(spec, count_parameters(small))
    copies = _widest(small, goal) if widen is None else _checked(widen)
    wide = _widened(small, copies)
    if count_parameters(wide) > goal:
        raise OptionError(
            f"cost scale {spec!r} is below the {count_parameters(wide):,} parameters that "
            f"{source.path.name} has" + (f" when widened {copies} times" if copies > 1 else ""),
            hint="Give a larger size, or a factor such as x4",
        )
    a_layer = count_parameters(replace(wide, num_layers=1)) - count_parameters(
        replace(wide, num_layers=0)
    )
    missing = -(-(goal - count_parameters(wide)) // a_layer)  # rounded up
    origins = _spread(small.num_layers, small.num_layers + missing)
    large = replace(
        wide,
        num_layers=len(origins),
        windows=tuple(small.windows[layer] for layer in origins),
        rotary=tuple(small.rotary[layer] for layer in origins),
    )
    label = _label(source, spec, copies, count_parameters(large))
    config = _config(source.config, small, large) | {LABEL: label}
    return ScaledPlan(
        source=source,
        spec=spec,
        widen=copies,
        small=small,
        large=large,
        origins=origins,
        config=config,
    )


def count_parameters(config: DecoderConfig) -> int:
    """Numbers in a model of this shape, a tied head counted once."""
    return sum(torch.Size(shape).numel() for shape in expected_shapes(config).values())


def _goal(spec: str, own: int) -> int:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise OptionError(
            f"cost scale {spec!r} can not be read",
            hint="Give a number of parameters such as 30M or 8B, or a factor such as x4",
        )
    if match["factor"]:
        return round(own * float(match["factor"]))
    return round(float(match["size"]) * _UNITS[match["unit"]])


def _checked(widen: int) -> int:
    if widen < 1 or widen & (widen - 1):
        raise OptionError(
            f"models are not widened {widen} times", hint="Give a power of two, such as 1, 4 or 16"
        )
    return widen


def _widest(small: DecoderConfig, goal: int) -> int:
    copies = 1
    if goal < _AUTO_WIDEN_FROM:
        return copies
    while small.hidden_size * copies * 2 <= WIDEST and (
        count_parameters(_widened(small, copies * 2)) <= goal
    ):
        copies *= 2
    return copies


def _widened(small: DecoderConfig, copies: int) -> DecoderConfig:
    return replace(
        small,
        hidden_size=small.hidden_size * copies,
        intermediate_size=small.intermediate_size * copies,
        num_heads=small.num_heads * copies,
        num_kv_heads=small.num_kv_heads * _key_copies(small, copies),
    )


def _key_copies(small: DecoderConfig, copies: int) -> int:
    """Large models keep to about eight key-value heads, and caches grow with them."""
    keys = 1
    while keys < copies and small.num_kv_heads * keys * 2 <= _USUAL_KV_HEADS:
        keys *= 2
    return keys


def _spread(real: int, total: int) -> tuple[int, ...]:
    """For each of `total` layers the real one it belongs to; each stands before its fillers."""
    return tuple(layer * real // total for layer in range(total))


def _label(source: Checkpoint, spec: str, widen: int, parameters: int) -> dict[str, Any]:
    return {
        "from": "/".join(source.path.resolve().parts[-2:]),
        "spec": spec,
        "widen": widen,
        "parameters": parameters,
        "source_fingerprint": source.fingerprint,
    }


def _config(config: dict[str, Any], small: DecoderConfig, large: DecoderConfig) -> dict[str, Any]:
    """config.json of the large model; lists with an entry a layer grow with it."""
    scaled = config | {"num_hidden_layers": large.num_layers}
    windowed = any(small.windows) and config["model_type"] != "mistral"  # Mistral has no list
    if windowed or config.get("layer_types"):
        full, sliding = "full_attention", "sliding_attention"
        scaled["layer_types"] = [full if window is None else sliding for window in large.windows]
    if config["model_type"] == "smollm3":
        scaled["no_rope_layers"] = [int(turned) for turned in large.rotary]
    if large.hidden_size != small.hidden_size:
        scaled |= {
            "hidden_size": large.hidden_size,
            "intermediate_size": large.intermediate_size,
            "num_attention_heads": large.num_heads,
            "num_key_value_heads": large.num_kv_heads,
            "head_dim": large.head_dim,
        }
    return scaled


# -- tensors ---------------------------------------------------------------------------------


def outer_tensors(
    plan: ScaledPlan, device: torch.device | str, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Embedding, final norm and head by name; `dtype` None keeps that of the file.

    The copies of a channel would add up in the head. The final norm takes that back, not the
    head, which may be the embedding.
    """
    names = [name for name in (EMBED, NORM, HEAD) if name in plan.source.tensors]
    tensors = _load(plan.source, names, device, dtype)
    copied = {name: tensor.tile(plan.widen) for name, tensor in tensors.items()}
    copied[NORM] = copied[NORM] / plan.widen
    return copied


def layer_tensors(
    plan: ScaledPlan, layer: int, device: torch.device | str, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """The tensors of one large layer, named without `model.layers.N.`."""
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
    """A tensor of a filler layer: noise like the real weights, norms as they are, some faint."""
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
    """For each large channel of `axis` the small one it copies."""
    small = plan.small
    if axis == "hidden":
        return torch.arange(small.hidden_size).tile(plan.widen)
    if axis == "inner":
        return torch.arange(small.intermediate_size).tile(plan.widen)
    heads = torch.tensor(list(_heads(plan) if axis == "queries" else _key_heads(plan)))
    return (heads[:, None] * small.head_dim + torch.arange(small.head_dim)).flatten()


def _key_heads(plan: ScaledPlan) -> Iterator[int]:
    for _ in range(_key_copies(plan.small, plan.widen)):
        yield from range(plan.small.num_kv_heads)


def _heads(plan: ScaledPlan) -> Iterator[int]:
    """Every large key head is read by copies of the query heads that read its small one."""
    group = plan.small.num_heads // plan.small.num_kv_heads
    for key_head in _key_heads(plan):
        for _ in range(plan.widen // _key_copies(plan.small, plan.widen)):
            yield from range(key_head * group, (key_head + 1) * group)
