"""Measures held-out losses and agreement by domain."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from outrider.training.core.heads import mean_loss


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Return bfloat16 autocast on `device`."""
    return torch.autocast(device.type, torch.bfloat16)  # type: ignore[return-value]


def heldout_windows(folder: Path, length: int, limit: int) -> dict[str, Tensor]:
    """Return for each domain int64 [rows, length], from at most `limit` held-out tokens."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("heldout.*.npy")):
        stream = np.load(path)[:limit].astype(np.int64)
        own = min(length, len(stream))
        rows = len(stream) // own
        name = path.name.removeprefix("heldout.").removesuffix(".npy")
        found[name] = torch.from_numpy(stream[: rows * own].reshape(rows, own))
    return found


@torch.no_grad()
def heldout_losses(model: LlamaForCausalLM, windows: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean cross-entropy in nats per token for each domain, and their mean,
    `heldout`.
    """
    losses: dict[str, float] = {}
    for name, rows in windows.items():
        total = sum(
            mean_loss(*hidden_and_labels(model, part)) * len(part) for part in rows.split(8)
        )
        losses[f"heldout/{name}"] = total / len(rows)
    return {"heldout": sum(losses.values()) / max(len(losses), 1), **losses}


@torch.no_grad()
def hidden_and_labels(model: LlamaForCausalLM, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states [n, width] in bfloat16, the tied head, and the next tokens [n]."""
    device = model.lm_head.weight.device
    rows = rows.to(device)
    with autocast(device):
        hidden = model.model(input_ids=rows[:, :-1], use_cache=False).last_hidden_state
    flat = hidden.reshape(-1, hidden.shape[-1]).to(torch.bfloat16)
    return flat, model.lm_head.weight, rows[:, 1:].reshape(-1)


@torch.no_grad()
def heldout_agreement(
    target: LlamaForCausalLM, other: LlamaForCausalLM, windows: dict[str, Tensor]
) -> dict[str, float]:
    """Return for each domain the share of positions at which both models have the same best
    token.
    """
    shares: dict[str, float] = {}
    for name, rows in windows.items():
        equal = [matches(target, other, part)[0] for part in rows.split(8)]
        shares[name] = float(torch.cat(equal).float().mean())
    return shares


@torch.no_grad()
def matches(
    target: LlamaForCausalLM, other: LlamaForCausalLM, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Compare two models on int64 `rows` [n, length]: equal argmax, bool [n, length-1], and
    overlap, float.

    The overlap is the sum over tokens of min(p, q): the probability that speculative sampling with
    the target at temperature 1 accepts a token drawn from `other`.
    """
    mine, weight, _ = hidden_and_labels(target, rows)
    theirs, own_weight, _ = hidden_and_labels(other, rows)
    equal, overlap = [], []
    for start in range(0, len(mine), 512):
        span = slice(start, start + 512)
        p = torch.softmax((mine[span] @ weight.to(mine.dtype).T).float(), dim=-1)
        q = torch.softmax((theirs[span] @ own_weight.to(theirs.dtype).T).float(), dim=-1)
        equal.append(p.argmax(dim=-1) == q.argmax(dim=-1))
        overlap.append(torch.minimum(p, q).sum(dim=-1))
    shape = (rows.shape[0], rows.shape[1] - 1)
    return torch.cat(equal).reshape(shape), torch.cat(overlap).reshape(shape)
