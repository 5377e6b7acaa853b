"""Cut a small student out of a Llama-shaped model: some layers, heads, neurons and directions.

The hidden states of the kept layers are projected on their common main directions, as in SliceGPT
(arXiv 2401.15024): weights of norms are folded into the matrices that follow, so that the
projection commutes with the norms. The head is no longer tied, since the last norm is folded into
it. It is then fitted by least squares, as in the tuned lens (arXiv 2303.08112): the map from the
student's last states to those of the model, followed by the model's head.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

_RIDGE = 1e-3
"""Of the least squares, relative to the mean square of a state."""

_Hook = Callable[[nn.Module, tuple[Tensor, ...]], None]


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a student keeps: layers by number, and how many directions, groups and neurons.

    A group is a key-value head with its query heads.
    """

    layers: Sequence[int]
    width: int
    groups: int
    ffn: int


@dataclass(kw_only=True)
class Statistics:
    """Of calibration text, by layer: second moments of hidden states, and energies of inputs.

    The moments of the last layer + 1 are those of the model's last states.
    """

    moments: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
    neurons: dict[int, Tensor] = field(default_factory=dict)


@torch.no_grad()
def observe(model: LlamaForCausalLM, ids: Tensor) -> Statistics:
    """Read `ids` [rows, length] and return the statistics of all layers."""
    found = Statistics()
    handles: list[Any] = []

    def energies(store: dict[int, Tensor], layer: int) -> _Hook:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            store[layer] = inputs[0].float().square().flatten(0, -2).mean(dim=0)

        return hook

    def moments(layer: int) -> _Hook:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            states = nn.functional.normalize(inputs[0].float().flatten(0, -2), dim=-1)
            found.moments[layer] = found.moments.get(layer, 0) + states.T @ states

        return hook

    body = cast(Any, model.model)
    for number, layer in enumerate(body.layers):
        handles += [
            layer.self_attn.o_proj.register_forward_pre_hook(energies(found.attention, number)),
            layer.mlp.down_proj.register_forward_pre_hook(energies(found.neurons, number)),
            layer.input_layernorm.register_forward_pre_hook(moments(number)),
            layer.post_attention_layernorm.register_forward_pre_hook(moments(number)),
        ]
    handles.append(body.norm.register_forward_pre_hook(moments(len(body.layers))))
    body(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def cut(model: LlamaForCausalLM, size: Size, found: Statistics) -> LlamaForCausalLM:
    """Return a student in float32; its embedding is the projected one of `model`."""
    old: Any = model.config
    per_group = old.num_attention_heads // old.num_key_value_heads
    config = copy.deepcopy(old)
    config.update(
        {
            "hidden_size": size.width,
            "num_hidden_layers": len(size.layers),
            "num_attention_heads": size.groups * per_group,
            "num_key_value_heads": size.groups,
            "head_dim": old.head_dim,
            "intermediate_size": size.ffn,
            "tie_word_embeddings": False,
        }
    )
    if hasattr(config, "layer_types"):
        config.layer_types = None
    student = LlamaForCausalLM(config).float()
    read = {*size.layers, max(size.layers) + 1}
    energy, directions = torch.linalg.eigh(sum(found.moments[i] for i in read))
    main = directions[:, -size.width :]
    kept = float(energy[-size.width :].sum() / energy.sum())
    scale = (old.hidden_size / size.width * kept) ** 0.5
    body, new = cast(Any, model.model), cast(Any, student.model)
    embedding = body.embed_tokens.weight.float()
    new.embed_tokens.weight.copy_(embedding @ main)
    student.lm_head.weight.copy_(embedding * body.norm.weight.float() @ main)
    new.norm.weight.fill_(scale)
    for own, number in zip(new.layers, size.layers, strict=True):
        _cut_layer(own, body.layers[number], main, scale, size, number, found)
    return student


@torch.no_grad()
def fit_head(student: LlamaForCausalLM, model: LlamaForCausalLM, ids: Tensor) -> None:
    """Replace the student's head by the best linear map to the model's states, and its head."""
    body = cast(Any, model.model)
    width = student.config.hidden_size
    both = torch.zeros(width, width)
    across = torch.zeros(width, model.config.hidden_size)
    for rows in ids.split(4):
        own = student.model(input_ids=rows, use_cache=False).last_hidden_state.flatten(0, 1).float()
        wanted = body(input_ids=rows, use_cache=False).last_hidden_state.flatten(0, 1).float()
        both += own.T @ own
        across += own.T @ wanted
    both += _RIDGE * both.diagonal().mean() * torch.eye(width)
    mapped = torch.linalg.solve(both, across)
    student.lm_head.weight.copy_(model.lm_head.weight.float() @ mapped.T)


def _cut_layer(
    own: Any,
    layer: Any,
    main: Tensor,
    scale: float,
    size: Size,
    number: int,
    found: Statistics,
) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    into = layer.input_layernorm.weight.float()
    head = attention.head_dim
    out = attention.o_proj.weight.float()
    strength = found.attention[number] * out.square().sum(dim=0)
    queries = len(strength) // head
    groups = attention.k_proj.weight.shape[0] // head
    best = strength.view(groups, -1).sum(dim=1).topk(size.groups).indices.sort().values
    of_keys = (best[:, None] * head + torch.arange(head)).flatten()
    span = queries // groups * head
    of_queries = (best[:, None] * span + torch.arange(span)).flatten()
    for name, rows in (("q_proj", of_queries), ("k_proj", of_keys), ("v_proj", of_keys)):
        weight = getattr(attention, name).weight.float()[rows]
        getattr(own.self_attn, name).weight.copy_(weight * into @ main)
    own.self_attn.o_proj.weight.copy_(main.T @ out[:, of_queries])
    down = mlp.down_proj.weight.float()
    strength = found.neurons[number] * down.square().sum(dim=0)
    neurons = strength.topk(size.ffn).indices.sort().values
    into = layer.post_attention_layernorm.weight.float()
    for name in ("gate_proj", "up_proj"):
        weight = getattr(mlp, name).weight.float()[neurons]
        getattr(own.mlp, name).weight.copy_(weight * into @ main)
    own.mlp.down_proj.weight.copy_(main.T @ down[:, neurons])
    own.input_layernorm.weight.fill_(scale)
    own.post_attention_layernorm.weight.fill_(scale)
