"""Losses over the vocabulary with their gradients, in chunks that fit into the cache.

A head is the tied embedding matrix: logits = hidden @ weight.T. Gradients are computed by hand, a
few hundred rows at a time, so that [tokens, vocabulary] is never in memory. On a CPU this saves a
good part of the training time of a small model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_ROWS = 512


def cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, scale: float
) -> tuple[float, Tensor]:
    """Return the mean cross-entropy in nats, and its gradient with respect to `hidden` times
    `scale`.

    `hidden` is [n, width], `weight` [vocabulary, width], `labels` [n]. The gradient with respect to
    `weight`, times `scale`, is added to `weight.grad`.
    """
    rows = len(labels)
    low = weight.detach().to(hidden.dtype)
    grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
    grad_hidden = torch.empty_like(hidden)
    loss = torch.zeros((), dtype=torch.float32, device=weight.device)
    for start in range(0, rows, _ROWS):
        part = hidden[start : start + _ROWS].detach()
        label = labels[start : start + _ROWS, None]
        log_p = torch.log_softmax((part @ low.T).float(), dim=-1)
        loss -= log_p.gather(1, label).sum()
        grad = log_p.exp_()
        grad.scatter_add_(1, label, torch.full_like(label, -1, dtype=grad.dtype))
        grad = grad.mul_(scale / rows).to(hidden.dtype)
        grad_hidden[start : start + _ROWS] = grad @ low
        grad_weight += grad.T @ part
    _add_grad(weight, grad_weight)
    return float(loss) / rows, grad_hidden


def divergences(
    teacher: tuple[Tensor, Tensor], students: Sequence[tuple[Tensor, Tensor]], scale: float
) -> tuple[list[float], list[Tensor], list[float]]:
    """Compute the mean KL(teacher || student) in nats for each student of one teacher.

    Each pair is (hidden [n, width], weight [vocabulary, width]). Returns the divergences, the
    gradients with respect to each student's hidden states times `scale`, and the share of positions
    with the same best token as the teacher. Gradients with respect to weights are added to
    `weight.grad`.
    """
    hidden, weight = teacher
    rows = len(hidden)
    low_teacher = weight.detach().to(hidden.dtype)
    lows = [w.detach().to(h.dtype) for h, w in students]
    grads = [torch.zeros(w.shape, dtype=torch.float32, device=w.device) for _, w in students]
    outs = [torch.empty_like(h) for h, _ in students]
    losses = torch.zeros(len(students), device=weight.device)
    agree = torch.zeros(len(students), device=weight.device)
    for start in range(0, rows, _ROWS):
        span = slice(start, start + _ROWS)
        log_p = torch.log_softmax((hidden[span] @ low_teacher.T).float(), dim=-1)
        best = log_p.argmax(dim=-1)
        p = log_p.exp()
        entropy = -(p * log_p).sum()
        for index, (own, _) in enumerate(students):
            part = own[span].detach()
            log_q = torch.log_softmax((part @ lows[index].T).float(), dim=-1)
            agree[index] += (log_q.argmax(dim=-1) == best).sum()
            losses[index] -= torch.dot(p.flatten(), log_q.flatten()) + entropy
            grad = log_q.exp_().sub_(p).mul_(scale / rows).to(own.dtype)
            outs[index][span] = grad @ lows[index]
            grads[index] += grad.T @ part
    for (_, own_weight), grad_weight in zip(students, grads, strict=True):
        _add_grad(own_weight, grad_weight)
    return (losses / rows).tolist(), outs, (agree / rows).tolist()


def _add_grad(weight: Tensor, grad: Tensor) -> None:
    grad = grad.to(weight.dtype)
    weight.grad = grad if weight.grad is None else weight.grad.add_(grad)


@torch.no_grad()
def mean_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy in nats; shapes as in `cross_entropy`."""
    low = weight.detach().to(hidden.dtype)
    total = 0.0
    for start in range(0, len(labels), _ROWS):
        span = slice(start, start + _ROWS)
        log_p = torch.log_softmax((hidden[span] @ low.T).float(), dim=-1)
        total -= float(log_p.gather(1, labels[span, None]).sum())
    return total / len(labels)
