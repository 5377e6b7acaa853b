"""AWRS, adaptive weighted rejection sampling (arXiv 2504.05410): a token of those that are allowed,
and an estimate of their probability, from questions about a few tokens.

Tokens are drawn without replacement until one is allowed. With q, the probability of a drawn token
among those that were not drawn before, the estimate is the product of 1 - q over the refused ones,
times 1 if the next token in the order is allowed as well, and times q of the drawn token if not.
The estimate w of a step and its token x satisfy E[w f(x)] = sum of p(x) f(x) over the allowed
tokens, for every f. The weight of a text is the product over its tokens, which is what sequential
Monte Carlo (`particles.py`) needs to sample the model's distribution over allowed *texts*; masking
token by token does not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import LogitsError
from outrider.core.types import Draft, Draw, Exactness, IntArray, Verdict
from outrider.protocols import NO_NEEDS
from outrider.protocols.method import Method, Paper
from outrider.protocols.view import View
from outrider.sampling.checker import TokenTest, descending
from outrider.sampling.walk import Walk

NONE_ALLOWED = "every token that the model can write is refused"


@dataclass(frozen=True, slots=True)
class Step:
    """One token of a text.

    Attributes:
        token: the token; None if none was found.
        log_weight: logarithm of the estimate of the allowed probability.
        refused: number of refused tokens.
    """

    token: int | None
    log_weight: float
    refused: int


def awrs(
    probs: NDArray[np.float64],
    keys: NDArray[np.float64],
    allowed: Callable[[int], bool],
    most: int | None = None,
) -> Step:
    """Draw a token of those that are allowed, with an estimate of their probability.

    Args:
        probs: `[tokens]` probabilities, which sum to one.
        keys: `[tokens]` log-probabilities plus Gumbel noise: their descending order is an order of
            draws without replacement.
        allowed: whether the token at a place may follow; it is asked at most once for each place.
        most: refused tokens after which the step gives up, with weight 0. This makes the estimate
            too low.
    """
    left, log_weight, refused = probs.copy(), 0.0, 0
    order = descending(keys)
    for place in order:
        rest = left.sum()  # summed again, since 1 minus a sum near 1 keeps few digits
        if rest <= 0.0:
            break
        share = min(left[place] / rest, 1.0)
        if allowed(place):
            other = next(order, None)
            if other is not None and not allowed(other):
                log_weight += math.log(share) if share > 0.0 else -math.inf
            return Step(place, log_weight, refused)
        refused += 1
        if refused == most:
            break
        log_weight += math.log1p(-share) if share < 1.0 else -math.inf
        left[place] = 0.0
    return Step(None, -math.inf, refused)


@dataclass(slots=True)
class GrammarTest:
    """The tokens that a grammar allows, asked for one at a time. See `TokenTest`."""

    walk: Walk
    calls: int = 0

    def allows(self, generated: Sequence[int] | IntArray, token: int) -> bool:
        """See `TokenTest.allows`."""
        self.calls += 1
        return self.walk.allows(generated, token)

    def complete(self, generated: Sequence[int] | IntArray) -> bool:
        """See `TokenTest.complete`."""
        self.calls += 1
        return self.walk.accepts(generated)


@dataclass(slots=True)
class Weighted:
    """The rule of particles: each token is the first allowed one in the order of the sampler's
    choice, and has a weight. It keeps no draft.

    Attributes:
        tests: by the number of a sample, what its text may be.
        exact: weights are the allowed probability itself, from the mask of a grammar.
        most: refused tokens after which a text is given up.
        steps: by the number of a sample, its newest step.
    """

    tests: dict[int, TokenTest] = field(default_factory=dict[int, TokenTest])
    exact: bool = False
    most: int | None = None
    steps: dict[int, Step] = field(default_factory=dict[int, Step], init=False)

    needs = NO_NEEDS
    draws = frozenset(Draw)
    exactness = Exactness.DISTRIBUTION
    tracks_probs = False

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Draw the next token and note its weight; the verdict is an error if there is none."""
        sample = view.sampler.sample
        step = self._step(self.tests[sample], view)
        self.steps[sample] = step
        if step.token is None:
            return Verdict(error=LogitsError(NONE_ALLOWED))
        return Verdict(next_token=step.token, changed=(False,), sources=(view.name,))

    def _step(self, test: TokenTest, view: View) -> Step:
        support, generated, ends = view.contest(-1), list(view.generated), view.sampler.end_ids
        ids, keys = support.ids.numpy(), support.scores.numpy()
        probs = view.probs(-1).numpy()[ids]
        if self.exact and isinstance(test, GrammarTest):
            return _masked(test, ids, keys, probs, generated, ends)

        def allowed(place: int) -> bool:
            token = int(ids[place])
            return test.complete(generated) if token in ends else test.allows(generated, token)

        step = awrs(probs, keys, allowed, self.most)
        token = None if step.token is None else int(ids[step.token])
        return Step(token, step.log_weight, step.refused)


def _masked(
    test: GrammarTest,
    ids: NDArray[np.int64],
    keys: NDArray[np.float64],
    probs: NDArray[np.float64],
    generated: list[int],
    ends: frozenset[int],
) -> Step:
    """Return the same token as `awrs`, with the allowed probability itself: one mask."""
    test.calls += 1
    options = test.walk.after(generated)
    if options is None:
        return Step(None, -math.inf, 0)
    size = len(options.tokens)
    known = np.minimum(ids, size - 1)
    fits = options.tokens[known] & (ids < size) & ~np.isin(ids, list(ends))
    if options.accepting:
        fits |= np.isin(ids, list(ends))
    mass = float(probs[fits].sum())
    if mass <= 0.0:
        return Step(None, -math.inf, 0)
    place = int(np.where(fits, keys, -np.inf).argmax())
    # The sum of all probabilities differs from 1 by rounding.
    return Step(int(ids[place]), 0.0 if fits.all() else math.log(min(mass, 1.0)), 0)


METHOD = Method(
    name="awrs",
    cls=Weighted,
    summary="whole allowed texts in proportion to their probability: weighted particles",
    paper=Paper("adaptive weighted rejection sampling", "2504.05410"),
    promise=Exactness.DISTRIBUTION,
    needs="a constraint or a checker",
    memory="a cache for each particle",
)
