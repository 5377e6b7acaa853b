"""The divergence from stored teacher probabilities, over part of the vocabulary.

A softmax over 49,152 tokens costs more than all layers of a small student. The loss is taken over
the tokens that the texts use most, and a sample of the others that stands for all of them: their
logits are raised by the logarithm of others / sampled.
"""

import math

import torch
from torch import Tensor

_ROWS = 512


class Candidates:
    """The tokens of one step: the frequent ones, and a sample of the others."""

    def __init__(self, counts: Tensor, frequent: int, sampled: int) -> None:
        order = counts.argsort(descending=True)
        self._frequent, self._others = order[:frequent], order[frequent:]
        self._sampled, self._vocabulary = sampled, len(counts)

    def draw(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids [c], what to add to their logits [c], and positions by id [vocabulary].

        The position of a token that is no candidate is -1.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self._others), generator=generator)[: self._sampled]
        ids = torch.cat((self._frequent, self._others[chosen]))
        add = torch.zeros(len(ids))
        add[len(self._frequent) :] = math.log(len(self._others) / self._sampled)
        places = torch.full((self._vocabulary,), -1)
        places[ids] = torch.arange(len(ids))
        return ids, add, places


def divergence(
    hidden: Tensor, head: Tensor, add: Tensor, places: Tensor, probs: Tensor
) -> tuple[float, Tensor, Tensor, float]:
    """Return the cross-entropy in nats, both gradients, and the share with an equal best token.

    Args:
        hidden: states [n, width] in bfloat16.
        head: rows of the head for the candidates [c, width].
        add: what is added to their logits [c].
        places: the teacher's most likely tokens as positions among the candidates [n, k]; -1 for
            those that are none.
        probs: their probabilities [n, k]; they are normalized over the candidates.

    Returns:
        The loss, the gradients with respect to `hidden` and `head`, and the agreement.
    """
    low = head.to(hidden.dtype)
    n = len(hidden)
    known = places >= 0
    probs = probs * known
    probs = probs / probs.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    places = places.clamp_min(0)
    grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)
    loss = agree = 0.0
    for start in range(0, n, _ROWS):
        span = slice(start, start + _ROWS)
        part = hidden[span]
        log_q = torch.log_softmax((part @ low.T).float() + add, dim=-1)
        loss -= float((log_q.gather(1, places[span]) * probs[span]).sum())
        best = log_q.argmax(dim=-1)
        agree += float(((best == places[span, 0]) & known[span, 0]).sum())
        grad = log_q.exp_().mul_(probs[span].sum(dim=-1, keepdim=True))
        grad.scatter_add_(1, places[span], -probs[span])
        grad = grad.mul_(1 / n).to(hidden.dtype)
        grad_hidden[span] = grad @ low
        grad_head += grad.T @ part
    return loss / n, grad_hidden, grad_head, agree / n
