"""Measures how often the small models agree with the target, for the model card."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from outrider.training.core.evaluate import heldout_windows, matches
from outrider.training.family.sample import continuations

_ROWS = 16
_PROMPT = 64
_LENGTH = 320


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Mean agreement over the positions of one domain.

    `greedy` is the share of positions with equal best tokens. `overlap` is the mean of the sum of
    min(p, q), the acceptance probability of speculative sampling at temperature 1.
    """

    greedy: float
    overlap: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Agreement by domain on held-out text, and on the target's own continuations of it."""

    text: dict[str, Agreement]
    own_greedy: dict[str, Agreement]
    own_sampled: dict[str, Agreement]


def measure(
    target: LlamaForCausalLM,
    others: dict[str, LlamaForCausalLM],
    corpus: Path,
    *,
    length: int = 513,
    limit: int = 16_384,
) -> dict[str, Report]:
    """Measure all tiers. The target's continuations are written once and used for every tier.

    `corpus` holds the `heldout.<domain>.npy` files; at most `limit` tokens of each are read.
    """
    windows = heldout_windows(corpus, length, limit)
    greedy = _own_texts(target, corpus, temperature=0.0)
    sampled = _own_texts(target, corpus, temperature=1.0)
    return {
        tier: Report(
            text=_by_domain(target, model, windows, 0),
            own_greedy=_by_domain(target, model, greedy, _PROMPT - 1),
            own_sampled=_by_domain(target, model, sampled, _PROMPT - 1),
        )
        for tier, model in others.items()
    }


def mean(found: dict[str, Agreement]) -> Agreement:
    """Compute the mean over domains with equal weights."""
    count = max(len(found), 1)
    return Agreement(
        greedy=sum(item.greedy for item in found.values()) / count,
        overlap=sum(item.overlap for item in found.values()) / count,
    )


def _own_texts(target: LlamaForCausalLM, corpus: Path, temperature: float) -> dict[str, Tensor]:
    """Continue held-out beginnings in one batch; return [rows, length] by domain."""
    beginnings = {
        name: rows[:_ROWS, :_PROMPT]
        for name, rows in heldout_windows(corpus, 4 * _PROMPT, 4 * _PROMPT * _ROWS).items()
        if rows.shape[1] >= _PROMPT
    }
    if not beginnings:
        return {}
    device = target.lm_head.weight.device
    together = torch.cat(list(beginnings.values())).to(device)
    rows = continuations(target, together, _LENGTH, temperature=temperature, seed=5)
    parts = rows.split([len(part) for part in beginnings.values()])
    return dict(zip(beginnings, parts, strict=True))


def _by_domain(
    target: LlamaForCausalLM, other: LlamaForCausalLM, windows: dict[str, Tensor], skip: int
) -> dict[str, Agreement]:
    """Measure agreement from position `skip` on, by domain."""
    found: dict[str, Agreement] = {}
    for name, rows in windows.items():
        pairs = [matches(target, other, part) for part in rows.split(8)]
        equal = torch.cat([pair[0] for pair in pairs])[:, skip:]
        overlap = torch.cat([pair[1] for pair in pairs])[:, skip:]
        found[name] = Agreement(greedy=float(equal.float().mean()), overlap=float(overlap.mean()))
    return found
