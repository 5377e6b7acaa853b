"""What a product of marginals loses on tasks whose answers are known distributions.

A round that commits several positions draws them from a product of marginals. The least divergence
of a product from a joint is the total correlation `sum H(Y_i) - H(Y)`; the one-shot success is the
mass that the product of marginals has on correct answers. Lists have n different names; a shuffle
here may be any order, the given one too. Nats throughout.
"""

import itertools
from dataclasses import dataclass
from math import factorial, lgamma, log

import numpy as np

from outrider.models.denoisers.tabular import Joint


def shuffle_correlation(n: int) -> float:
    """Return the total correlation of a uniform order of n names: `n ln n - ln n!`."""
    return n * log(n) - lgamma(n + 1)


def shuffle_success(n: int) -> float:
    """Return the chance that n independent uniform names are an order: `n! / n^n`."""
    return float(factorial(n) / n**n)


def replace_correlation(n: int) -> float:
    """Return the total correlation of one uniform replacement: `n H_b(1/n) - ln n`."""
    if n == 1:
        return 0.0
    share = 1 / n
    binary = -share * log(share) - (1 - share) * log(1 - share)
    return n * binary - log(n)


def replace_success(n: int) -> float:
    """Return the chance that exactly one of n independent replacements happens."""
    return float((1 - 1 / n) ** (n - 1))


def copy_joint(n: int) -> Joint:
    """Return the joint of a copied list: one text."""
    return Joint(np.arange(n, dtype=np.int64)[None], np.ones(1))


def shuffle_joint(n: int) -> Joint:
    """Return the uniform joint of all orders of n names."""
    texts = np.array(list(itertools.permutations(range(n))), dtype=np.int64)
    return Joint(texts, np.ones(len(texts)))


def replace_joint(n: int) -> Joint:
    """Return the uniform joint of a list in which one of n names is replaced by name n."""
    texts = np.tile(np.arange(n, dtype=np.int64), (n, 1))
    np.fill_diagonal(texts, n)
    return Joint(texts, np.ones(n))


def total_correlation(joint: Joint) -> float:
    """Return the sum of the entropies of the positions, less the entropy of the whole."""
    weights = joint.weights / joint.weights.sum()
    parts = [np.bincount(column, weights) for column in joint.texts.T]
    return float(sum(map(_entropy, parts)) - _entropy(weights))


def one_shot_success(joint: Joint) -> float:
    """Return the mass of the product of the marginals on the texts of a joint, which differ."""
    weights = joint.weights / joint.weights.sum()
    parts = [np.bincount(column, weights) for column in joint.texts.T]
    chances = [part[column] for part, column in zip(parts, joint.texts.T, strict=True)]
    return float(np.prod(chances, axis=0)[joint.weights > 0].sum())


def _entropy(chances: np.ndarray) -> float:
    some = chances[chances > 0]
    return float(-(some * np.log(some)).sum())


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """A task with a known distribution of answers.

    Attributes:
        name: its name.
        n: names of the list.
        joint: the answers.
        correlation: the total correlation, by formula.
        success: the one-shot success, by formula.
    """

    name: str
    n: int
    joint: Joint
    correlation: float
    success: float


def closed_form(name: str, n: int) -> ClosedForm:
    """Return `copy`, `shuffle` or `replace` for lists of n names.

    Raises:
        KeyError: there is no such form.
    """
    forms = {
        "copy": lambda: ClosedForm(name, n, copy_joint(n), 0.0, 1.0),
        "shuffle": lambda: ClosedForm(
            name, n, shuffle_joint(n), shuffle_correlation(n), shuffle_success(n)
        ),
        "replace": lambda: ClosedForm(
            name, n, replace_joint(n), replace_correlation(n), replace_success(n)
        ),
    }
    return forms[name]()


FORMS = ("copy", "shuffle", "replace")
"""The names of the closed forms."""
