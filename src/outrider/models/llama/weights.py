"""Loads the matrices of a decoder by their tensor names.

Matrices with the same input are fused: queries, keys and values; gate and up.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import (
    Checkpoint,
    UnsupportedCheckpointError,
    load_tensors,
)
from outrider.models.llama.config import DecoderConfig

Projection = Callable[[Tensor], Tensor]
"""`[tokens, inputs] -> [tokens, outputs]`; quantized projections have the same type."""

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_NO_HEAD = (
    "It holds a base model without a head: save it with AutoModelForCausalLM, or set "
    "tie_word_embeddings to true in config.json if the head shares the embeddings"
)
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight.T + bias`."""

    weight: Float[Tensor, "outputs inputs"]
    bias: Float[Tensor, " outputs"] | None = None

    def __call__(self, x: Float[Tensor, "tokens inputs"]) -> Float[Tensor, "tokens outputs"]:
        """Apply it to each row."""
        return F.linear(x, self.weight, self.bias)


@dataclass(slots=True, kw_only=True)
class LayerWeights:
    """Weights of one layer.

    `qk_norm` holds a row for each query head, then for each key head. The norms after attention and
    MLP are `output_norm` and `down_norm`. A norm that the layer does not have is None.
    """

    input_norm: Float[Tensor, " hidden"] | None
    qkv: Projection
    qk_norm: Float[Tensor, "heads head_dim"] | None
    output: Projection
    mlp_norm: Float[Tensor, " hidden"] | None
    gate_up: Projection
    down: Projection
    output_norm: Float[Tensor, " hidden"] | None = None
    down_norm: Float[Tensor, " hidden"] | None = None


@dataclass(slots=True, kw_only=True)
class DecoderWeights:
    """Weights of a whole model. A tied head shares the tensor of `embed`."""

    embed: Float[Tensor, "vocab hidden"]
    layers: list[LayerWeights]
    norm: Float[Tensor, " hidden"]
    head: Projection
    num_parameters: int


def expected_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that the checkpoint must hold, except a tied head."""
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {EMBED: (config.vocab_size, hidden)}
    for layer in range(config.num_layers):
        for name, shape in _layer_shapes(config).items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    shapes[NORM] = (hidden,)
    if not config.tied:
        shapes[HEAD] = (config.vocab_size, hidden)
    return shapes


def _layer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    gate_up = 2 * inner if config.fused.gate_up else inner
    query_norm, key_norm = (queries, keys) if config.norms.whole else (config.head_dim,) * 2
    matrices = {
        **{name: (size, hidden, config.qkv_bias) for name, size in qkv_sizes(config).items()},
        "self_attn.o_proj": (hidden, queries, config.output_bias),
        **dict.fromkeys(gate_up_names(config), (gate_up, hidden, config.mlp_bias)),
        "mlp.down_proj": (hidden, inner, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs, biased) in matrices.items():
        shapes[f"{name}.weight"] = (outputs, inputs)
        if biased:
            shapes[f"{name}.bias"] = (outputs,)
    for name in config.norms.names:
        shapes[f"{name}.weight"] = (hidden,)
    if config.qk_norm:
        shapes["self_attn.q_norm.weight"] = (query_norm,)
        shapes["self_attn.k_norm.weight"] = (key_norm,)
    return shapes


def qkv_sizes(config: DecoderConfig) -> dict[str, int]:
    """Return the matrices of queries, keys and values, or their fused one, with their outputs."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    if config.fused.qkv:
        return {"self_attn.qkv_proj": queries + 2 * keys}
    return {"self_attn.q_proj": queries, "self_attn.k_proj": keys, "self_attn.v_proj": keys}


def gate_up_names(config: DecoderConfig) -> tuple[str, ...]:
    """Return the names of the matrices of gate and up, or of their fused one."""
    return ("mlp.gate_up_proj",) if config.fused.gate_up else ("mlp.gate_proj", "mlp.up_proj")


def order_of_rows(config: DecoderConfig) -> Int[Tensor, " rows"] | None:
    """Return the order into which the rows of queries, keys and values are put; None: as stored."""
    order = config.head_order
    if order is None:
        return None
    turning = (config.num_heads + config.num_kv_heads) * config.head_dim
    rows = torch.arange(turning + config.num_kv_heads * config.head_dim)
    heads = rows[:turning].view(-1, config.head_dim)[:, order]
    return torch.cat((heads.flatten(), rows[turning:]))


def parameter_count(config: DecoderConfig, *, tied: bool) -> int:
    """Return the number of weights; a tied head is counted once."""
    shapes = expected_shapes(config)
    shapes.pop(HEAD, None)
    head = () if tied else (shapes[EMBED],)
    return sum(torch.Size(shape).numel() for shape in (*shapes.values(), *head))


def check_tensors(checkpoint: Checkpoint, config: DecoderConfig) -> None:
    """Raise `CheckpointError` unless names, shapes and types match the configuration."""
    expected = expected_shapes(config)
    for name, info in checkpoint.tensors.items():
        allowed = expected.get(name)
        if name.endswith("rotary_emb.inv_freq"):  # an old checkpoint saved this buffer
            continue
        if name == HEAD:
            allowed = expected[EMBED]
        if allowed is None and _is_zero_bias(checkpoint, name):
            continue
        if allowed is None:
            raise CheckpointError(f"{checkpoint.path} has an unexpected tensor {name}")
        if info.shape != allowed:
            raise CheckpointError(
                f"tensor {name} has shape {list(info.shape)}, config.json implies {list(allowed)}"
            )
        if info.stored is None and info.dtype not in _FLOATS:
            raise UnsupportedCheckpointError(
                f"tensor {name} is {info.dtype}; supported: {', '.join(_FLOATS)}"
            )
    missing = [name for name in expected if name not in checkpoint.tensors]
    if config.tied and missing == [EMBED] and HEAD in checkpoint.tensors:
        return
    if missing:
        raise CheckpointError(
            f"{checkpoint.path} lacks tensor {missing[0]}",
            hint=_NO_HEAD if missing == [HEAD] else "Check that the checkpoint is complete",
        )


def _is_zero_bias(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is the bias of a quantised matrix and adds nothing.

    AutoGPTQ writes such biases for matrices that have none.
    """
    matrix = checkpoint.tensors.get(f"{name.removesuffix('.bias')}.weight")
    if not name.endswith(".bias") or matrix is None or matrix.stored is None:
        return False
    return not load_tensors(checkpoint, [name], torch.float32)[name].any()


def load_weights(
    checkpoint: Checkpoint, config: DecoderConfig, dtype: torch.dtype, device: torch.device
) -> DecoderWeights:
    """Load and fuse the weights, one layer at a time. Raises `CheckpointError`."""
    check_tensors(checkpoint, config)
    names = [name for name in (EMBED, NORM, HEAD) if name in checkpoint.tensors]
    outer = load_tensors(checkpoint, names, dtype, device)
    embed = outer.get(EMBED, outer.get(HEAD))
    head = outer.get(HEAD, embed)
    assert embed is not None and head is not None  # check_tensors requires at least one of the two
    if config.tied and torch.equal(embed, head):
        head = embed
    return DecoderWeights(
        embed=embed,
        layers=[
            load_layer(checkpoint, config, layer, dtype, device)
            for layer in range(config.num_layers)
        ],
        norm=shifted(outer[NORM], config),
        head=Linear(head),
        num_parameters=parameter_count(config, tied=head is embed),
    )


def load_layer(
    checkpoint: Checkpoint,
    config: DecoderConfig,
    layer: int,
    dtype: torch.dtype,
    device: torch.device,
) -> LayerWeights:
    """Load the weights of one layer and fuse them. Raises `CheckpointError`."""
    prefix = f"model.layers.{layer}."
    names = [prefix + name for name in _layer_shapes(config)]
    loaded = load_tensors(checkpoint, names, dtype, device)
    return fuse_layer({name.removeprefix(prefix): t for name, t in loaded.items()}, config)


def fuse_layer(own: dict[str, Tensor], config: DecoderConfig) -> LayerWeights:
    """Fuse the tensors of one layer, which are named without `model.layers.N.`."""

    def fused(*parts: str, order: Tensor | None = None) -> Linear:
        bias = [own[f"{part}.bias"] for part in parts if f"{part}.bias" in own]
        weight = torch.cat([own[f"{part}.weight"] for part in parts])
        whole = torch.cat(bias) if bias else None
        if order is not None:
            order = order.to(weight.device)
            weight, whole = weight[order], None if whole is None else whole[order]
        return Linear(weight, whole)

    def norm(name: str | None) -> Tensor | None:
        return None if name is None else shifted(own[f"{name}.weight"], config)

    names = config.norms
    return LayerWeights(
        input_norm=norm(names.before_attention),
        qkv=fused(*qkv_sizes(config), order=order_of_rows(config)),
        qk_norm=_qk_norm(own, config) if config.qk_norm else None,
        output=fused("self_attn.o_proj"),
        output_norm=norm(names.after_attention),
        mlp_norm=norm(names.before_mlp),
        gate_up=fused(*gate_up_names(config)),
        down=fused("mlp.down_proj"),
        down_norm=norm(names.after_mlp),
    )


def shifted(norm: Float[Tensor, " size"], config: DecoderConfig) -> Float[Tensor, " size"]:
    """Return the weights of a norm with their offset, which is not rounded to half precision."""
    if not config.norms.offset:
        return norm
    return norm.to(torch.promote_types(norm.dtype, torch.float32)) + config.norms.offset


def _qk_norm(own: dict[str, Tensor], config: DecoderConfig) -> Float[Tensor, "heads head_dim"]:
    both = [
        shifted(own[f"self_attn.{name}_norm.weight"], config).view(-1, config.head_dim)
        for name in ("q", "k")
    ]
    counts = (config.num_heads, config.num_kv_heads)
    norms = torch.cat([n.expand(count, -1) for n, count in zip(both, counts, strict=True)])
    order = config.head_order
    return norms if order is None else norms[:, order.to(norms.device)]
