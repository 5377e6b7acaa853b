"""The model under training: layers of the one it starts from, and a loss for each exit."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM

from outrider.training.core.heads import cross_entropy, mean_loss

States = Float[Tensor, "tokens hidden"]


@torch.no_grad()
def with_layers(start: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """Return a model of `layers` layers made of `start`.

    Fewer layers are its first ones. Further layers are copies of its last one whose results are 0,
    so that training begins with equal exits.
    """
    known = int(start.config.num_hidden_layers)
    config = deepcopy(start.config)
    config.num_hidden_layers = layers
    config.layer_types = None
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config).float()
    weights = start.state_dict()
    for layer in range(known, layers):
        for name, weight in start.model.layers[known - 1].state_dict().items():
            ends = name in ("self_attn.o_proj.weight", "mlp.down_proj.weight")
            weights[f"model.layers.{layer}.{name}"] = torch.zeros_like(weight) if ends else weight
    own = model.state_dict()
    model.load_state_dict({name: weights[name].float() for name in own})
    return model


def exit_states(
    model: LlamaForCausalLM, ids: Int[Tensor, "rows length"], exits: Sequence[int]
) -> list[States]:
    """Return the normed states at each exit, which the shared head reads."""
    out: Any = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
    inner = [model.model.norm(out.hidden_states[layer]) for layer in exits[:-1]]
    return [states.flatten(0, 1) for states in (*inner, out.last_hidden_state)]


def soft_gradients(
    model: LlamaForCausalLM, rows: Int[Tensor, "rows length"], exits: Sequence[int], scale: float
) -> list[float]:
    """Add the gradients of SoFT: the mean of the cross-entropies of all exits, times `scale`.

    In float32: many processors compute bfloat16 several times as slowly.

    Returns the cross-entropy of each exit in nats.
    """
    states = exit_states(model, rows[:, :-1], exits)
    labels = rows[:, 1:].reshape(-1)
    losses, grads = [], []
    for one in states:
        loss, grad = cross_entropy(one, model.lm_head.weight, labels, scale / len(exits))
        losses.append(loss)
        grads.append(grad)
    torch.autograd.backward(states, grads)
    return losses


@torch.no_grad()
def exit_losses(
    model: LlamaForCausalLM, windows: dict[str, Tensor], exits: Sequence[int]
) -> dict[str, float]:
    """Return the held-out cross-entropy of each exit, the mean over all domains."""
    totals = [0.0] * len(exits)
    for rows in windows.values():
        for part in rows.split(8):
            states = exit_states(model, part[:, :-1], exits)
            labels = part[:, 1:].reshape(-1)
            for place, one in enumerate(states):
                loss = mean_loss(one, model.lm_head.weight, labels)
                totals[place] += loss * len(part) / len(rows)
    count = max(len(windows), 1)
    return {f"heldout/{layer}": t / count for layer, t in zip(exits, totals, strict=True)}
