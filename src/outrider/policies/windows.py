"""Which tiers to use and how far each drafts, by the recursion of PyramidSD."""

from collections.abc import Iterable
from dataclasses import dataclass

from outrider.core.metrics import (
    PyramidCosts,
    expected_tokens,
    predicted_speed,
    predicted_two_tier_speed,
)
from outrider.policies.surface import CostSurface

LONGEST_DRAFT, LONGEST_QUALIFIED = 8, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """Prior acceptance chances, or measured ones.

    Attributes:
        draft: chance that the target keeps a token of the draft model.
        qualifier: chance that the target keeps a token that the qualifier accepted.
        inner: chance that the qualifier keeps a token of the draft model.
    """

    draft: float = 0.6
    qualifier: float = 0.75
    inner: float = 0.7


@dataclass(frozen=True, slots=True)
class Windows:
    """Draft lengths, outermost first, and the expected tokens per second with them.

    No length: undrafted. One: a draft model. Two: the number of tokens that the qualifier collects,
    and the number that the draft model proposes to it at once; 0 there means that the qualifier
    drafts alone.
    """

    lengths: tuple[int, ...]
    speed: float


def undrafted(target: CostSurface) -> Windows:
    """Return the speed without drafting: one token per forward."""
    return Windows((), 1.0 / target.seconds(1))


def two_tiers(target: CostSurface, draft: float, accept: float) -> Windows:
    """Return the best length for one draft model that takes `draft` seconds per token."""
    return _best(
        Windows((k,), predicted_two_tier_speed(draft, target.seconds(k + 1), accept, k))
        for k in range(1, LONGEST_QUALIFIED + 1)
    )


def three_tiers(
    target: CostSurface, qualifier: CostSurface, draft: float, chances: Chances
) -> Windows:
    """Return the best pair of lengths for a pyramid: qualified tokens, and drafted tokens per inner
    round.
    """
    return _best(
        Windows((wide, deep), _pyramid_speed(target, qualifier, draft, chances, wide, deep))
        for wide in range(1, LONGEST_QUALIFIED + 1)
        for deep in range(min(LONGEST_DRAFT, wide) + 1)
    )


def best_windows(
    target: CostSurface, qualifier: CostSurface, draft: float, chances: Chances, margin: float = 0.0
) -> Windows:
    """Return the fastest of one, two and three tiers; a further tier must be faster by `margin`.

    Three tiers are therefore never chosen if the recursion predicts a lower speed than with fewer
    tiers.
    """
    best = undrafted(target)
    for more in (
        two_tiers(target, draft, chances.draft),
        three_tiers(target, qualifier, draft, chances),
    ):
        if more.speed > best.speed * (1.0 + margin):
            best = more
    return best


def token_seconds(qualifier: CostSurface, draft: float, accept: float) -> float:
    """Return the seconds per token that a qualifier proposes, with the best length of its inner
    drafts.
    """
    return min(
        (k * draft + qualifier.seconds(k + 1)) / expected_tokens(accept, k)
        for k in range(LONGEST_DRAFT + 1)
    )


def _pyramid_speed(
    target: CostSurface,
    qualifier: CostSurface,
    draft: float,
    chances: Chances,
    wide: int,
    deep: int,
) -> float:
    costs = PyramidCosts(
        draft=draft,
        qualifier=qualifier.seconds(deep + 1),
        target=target.seconds(wide + 1),
        accept_qualifier=chances.inner,
        accept_target=chances.qualifier,
    )
    return predicted_speed(costs, deep, wide)


def _best(found: Iterable[Windows]) -> Windows:
    return max(found, key=lambda windows: windows.speed)
