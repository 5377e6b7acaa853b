"""The entropy from which AdaDec pauses, fitted to a model on reference solutions.

solutions = [(prompt_ids, solution_ids), ...]
found = [one for pair in solutions for one in observed(model, *pair)]
generator.search("ada-dec", prompt, theta=fitted(found).theta)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.protocols import LanguageModel
from outrider.search.account import Account
from outrider.search.steps.lookahead import entropies
from outrider.search.tree import TokenTree

_CUTS = np.arange(1, 100) / 100
_HELD_OUT = 0.2
_STEPS = 50
_PENALTY = 1.0
"""Weight of half the squared coefficient, which keeps it finite for classes without overlap."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A position of a reference text.

    Attributes:
        entropy: of the model's distribution, in nats.
        right: whether the reference token is the model's best token.
    """

    entropy: float
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A fitted threshold.

    Attributes:
        theta: entropy in nats.
        coefficient: of the entropy in the log-odds that the best token is wrong.
        intercept: of the same.
        accuracy: share of held-out positions, as many right as wrong ones, that it tells apart.
        positions: positions that were used, the held-out ones included.
    """

    theta: float
    coefficient: float
    intercept: float
    accuracy: float
    positions: int


@torch.inference_mode()
def observed(
    model: LanguageModel, prompt: Sequence[int], solution: Sequence[int]
) -> list[Observation]:
    """Read a reference solution, and return an observation for each of its tokens.

    Args:
        model: the model.
        prompt: tokens before the solution, at least one.
        solution: its tokens.

    Raises:
        ContextError: they do not fit into the window.
    """
    if not solution:
        return []
    [cache] = model.start([Prompt(token_ids=tuple(prompt))])
    tree = TokenTree(model, cache, Account())
    rows = [tree.first()[None]]
    if len(solution) > 1:
        rows.append(tree.read(tree.root, solution[:-1]))
    logits = torch.cat(rows)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    best = logits.argmax(-1).tolist()
    found = zip(entropies(torch.log_softmax(logits, -1)), best, solution, strict=True)
    return [Observation(entropy, token == given) for entropy, token, given in found]


def fitted(observations: Sequence[Observation], *, seed: int = 0) -> Threshold:
    """Fit the threshold as the paper does.

    As many right as wrong positions are drawn. A logistic regression on four fifths of them gives
    the probability that the best token is wrong. On the others, the cut of that probability from
    0.01 to 0.99 with the best accuracy is chosen; of equal cuts the middle one. `theta` is the
    entropy of that probability.

    Args:
        observations: at least 5 right and 5 wrong positions.
        seed: of the draw.

    Raises:
        OptionError: there are too few positions, or the entropy is not larger where the best token
            is wrong.
    """
    rng = np.random.default_rng(seed)
    right = np.array([one.entropy for one in observations if one.right])
    wrong = np.array([one.entropy for one in observations if not one.right])
    count = min(len(right), len(wrong))
    if count < 5:
        raise OptionError(
            f"there are {len(right)} right and {len(wrong)} wrong positions",
            hint="Give reference solutions with at least 5 of each",
        )
    entropy = np.concatenate([rng.permutation(right)[:count], rng.permutation(wrong)[:count]])
    label = np.repeat([0.0, 1.0], count)
    order = rng.permutation(2 * count)
    entropy, label = entropy[order], label[order]
    held = max(int(2 * count * _HELD_OUT), 1)
    coefficient, intercept = logistic(entropy[held:], label[held:])
    if coefficient <= 0:
        raise OptionError(
            "the entropy is not larger where the best token is wrong",
            hint="Give more reference solutions, or a threshold",
        )
    thetas = (np.log(_CUTS / (1 - _CUTS)) - intercept) / coefficient
    hits = [float(np.mean((entropy[:held] >= theta) == label[:held])) for theta in thetas]
    equal = np.flatnonzero(np.isclose(hits, max(hits)))
    return Threshold(
        theta=max(float(thetas[equal[len(equal) // 2]]), 0.0),
        coefficient=coefficient,
        intercept=intercept,
        accuracy=max(hits),
        positions=2 * count,
    )


def logistic(values: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[float, float]:
    """Return coefficient and intercept of a logistic regression on one number, by Newton's method.

    Args:
        values: the number of each example.
        labels: 0 or 1 for each.
    """
    design = np.stack([values, np.ones_like(values)], axis=1)
    ridge = np.diag([_PENALTY, 1e-9])
    weights = np.zeros(2)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (chance - labels) + ridge @ weights
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + ridge
        step = np.linalg.solve(curve, slope)
        weights -= step
        if float(np.abs(step).max()) < 1e-10:
            break
    return float(weights[0]), float(weights[1])
