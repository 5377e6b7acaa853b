"""One step of AWRS: the estimate is unbiased for every function of the token."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from outrider.constraints.monte_carlo.awrs import Step, awrs

PROBS = np.array([0.4, 0.25, 0.15, 0.08, 0.05, 0.04, 0.02, 0.01])
ALLOWED = {1, 3, 4, 6, 7}

Draw = Callable[[np.ndarray, np.ndarray, Callable[[int], bool]], Step]


def expectation(draw: Draw, allowed: set[int]) -> np.ndarray:
    """`E[w, token = x]` for each of the 8 tokens, by enumeration of all orders without replacement.

    What is refused, the token and the one after it decide: the rest of the order is fixed.
    """
    found, depth = np.zeros(8), 8 - len(allowed) + 2
    for first in itertools.permutations(range(8), min(depth, 8)):
        chance, rest = 1.0, 1.0
        for token in first:
            chance *= PROBS[token] / rest
            rest -= PROBS[token]
        keys = np.full(8, -100.0)
        keys[list(first)] = -np.arange(len(first))
        step = draw(PROBS, keys, allowed.__contains__)
        if step.token is not None:
            found[step.token] += chance * math.exp(step.log_weight)
    return found


def exact(allowed: set[int]) -> np.ndarray:
    return np.where(np.isin(np.arange(8), sorted(allowed)), PROBS, 0.0)


@pytest.mark.method("awrs")
@pytest.mark.parametrize("allowed", [ALLOWED, {0, 2, 3, 5, 6, 7}, {1, 2, 4, 5, 6, 7}])
def test_weight_times_function_is_the_sum_over_allowed_tokens(allowed: set[int]) -> None:
    """For all functions at once: the sum holds token by token."""
    assert np.allclose(expectation(awrs, allowed), exact(allowed), atol=1e-12)


def without_the_next(probs: np.ndarray, keys: np.ndarray, allowed: Callable[[int], bool]) -> Step:
    """A wrong estimate: the product over refused tokens alone."""
    step = awrs(probs, keys, allowed)
    if step.token is None:
        return step
    order = np.argsort(-keys, kind="stable").tolist()
    rest, log_weight = 1.0, 0.0
    for token in order[: order.index(step.token)]:
        log_weight += math.log1p(-PROBS[token] / rest)
        rest -= PROBS[token]
    return Step(step.token, log_weight, step.refused)


def test_a_wrong_estimate_fails_the_same_test() -> None:
    assert not np.allclose(expectation(without_the_next, ALLOWED), exact(ALLOWED), atol=1e-3)


def test_all_allowed_is_weight_one_and_none_is_weight_zero() -> None:
    for seed in range(20):
        keys = np.log(PROBS) + np.random.default_rng(seed).gumbel(size=8)
        whole = awrs(PROBS, keys, lambda token: True)
        assert whole == Step(int(keys.argmax()), 0.0, 0)
        none = awrs(PROBS, keys, lambda token: False)
        assert none == Step(None, -math.inf, 8)


def test_each_token_is_asked_about_at_most_once_and_the_first_allowed_one_is_drawn() -> None:
    for seed in range(50):
        keys = np.log(PROBS) + np.random.default_rng(seed).gumbel(size=8)
        asked: list[int] = []
        step = awrs(
            PROBS, keys, lambda token, asked=asked: bool(asked.append(token)) or token in ALLOWED
        )
        order = np.argsort(-keys).tolist()
        assert step.token == next(token for token in order if token in ALLOWED)
        assert asked == order[: len(asked)] and len(asked) in (step.refused + 1, step.refused + 2)


def test_the_last_token_needs_no_next_one() -> None:
    """Only the last token of the order is allowed: the mass that is left is all its own."""
    keys = -np.arange(8.0)
    step = awrs(PROBS, keys, lambda token: token == 7)
    assert step.token == 7
    assert step.log_weight == pytest.approx(math.log(0.01), abs=1e-9)


def test_a_step_gives_up_after_most_refusals() -> None:
    keys = -np.arange(8.0)
    assert awrs(PROBS, keys, lambda token: token == 3, most=3) == Step(None, -math.inf, 3)
    assert awrs(PROBS, keys, lambda token: token == 3, most=4).token == 3


def test_small_masses_keep_their_digits() -> None:
    """Behind a token of nearly all the mass, 1 minus what was refused has few digits left."""
    probs = np.array([1.0 - 3e-14, 2e-14, 1e-14])
    step = awrs(probs / probs.sum(), -np.arange(3.0), lambda token: token == 2)
    assert step.log_weight == pytest.approx(math.log(1e-14), rel=1e-3)


@pytest.mark.parametrize("probs", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
def test_tokens_without_probability_have_weight_zero(probs: Sequence[float]) -> None:
    """Probabilities far below the others become 0."""
    keys = np.array([3.0, 2.0, 1.0])
    step = awrs(np.array(probs), keys, lambda token: probs[token] == 0.0)
    assert step.log_weight == -math.inf
