"""Which tiers to use, and how far each should draft, by the recursion of PyramidSD."""

from collections.abc import Iterable
from dataclasses import dataclass

from outrider.core.metrics import (
    PyramidCosts,
    expected_tokens,
    predicted_speed,
    predicted_two_tier_speed,
)
from outrider.policies.curve import CostCurve

LONGEST_DRAFT, LONGEST_QUALIFIED = 8, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """What is believed of acceptance before anything was tried, or was measured.

    Attributes:
        draft: the target keeps a token of the draft model.
        qualifier: the target keeps a token that the qualifier vouched for.
        inner: the qualifier keeps a token of the draft model.
    """

    draft: float = 0.6
    qualifier: float = 0.75
    inner: float = 0.7


@dataclass(frozen=True, slots=True)
class Windows:
    """Draft lengths, outermost first, and the tokens per second that they promise.

    None: undrafted. One: a draft model. Two: what the qualifier collects, and what the draft model
    writes for it at once; 0 there means that the qualifier writes alone.
    """

    lengths: tuple[int, ...]
    speed: float


def undrafted(target: CostCurve) -> Windows:
    """One token a forward."""
    return Windows((), 1.0 / target.seconds(1))


def two_tiers(target: CostCurve, draft: float, accept: float) -> Windows:
    """The best length for one draft model that takes `draft` seconds a token."""
    return _best(
        Windows((k,), predicted_two_tier_speed(draft, target.seconds(k + 1), accept, k))
        for k in range(1, LONGEST_QUALIFIED + 1)
    )


def three_tiers(target: CostCurve, qualifier: CostCurve, draft: float, chances: Chances) -> Windows:
    """The best pair of lengths for a pyramid."""
    return _best(
        Windows((wide, deep), _pyramid_speed(target, qualifier, draft, chances, wide, deep))
        for wide in range(1, LONGEST_QUALIFIED + 1)
        for deep in range(min(LONGEST_DRAFT, wide) + 1)
    )


def best_windows(
    target: CostCurve, qualifier: CostCurve, draft: float, chances: Chances, margin: float = 0.0
) -> Windows:
    """Of no, two and three tiers the fastest; a further tier must promise `margin` more.

    So three tiers are never chosen where the recursion predicts a loss against two or none.
    """
    best = undrafted(target)
    for more in (
        two_tiers(target, draft, chances.draft),
        three_tiers(target, qualifier, draft, chances),
    ):
        if more.speed > best.speed * (1.0 + margin):
            best = more
    return best


def token_seconds(qualifier: CostCurve, draft: float, accept: float) -> float:
    """Seconds a token of what a qualifier hands up, its inner drafts as long as serves best."""
    return min(
        (k * draft + qualifier.seconds(k + 1)) / expected_tokens(accept, k)
        for k in range(LONGEST_DRAFT + 1)
    )


def _pyramid_speed(
    target: CostCurve, qualifier: CostCurve, draft: float, chances: Chances, wide: int, deep: int
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
