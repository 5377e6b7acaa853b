"""Two drafters in order: the second proposes where the first proposes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray
from outrider.drafters.combine.pair import Pair, PairState, pair_priors
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.protocols import Drafter
from outrider.protocols.method import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback(Pair):
    """Drafts with `first`; requests for which it has no draft are drafted by `second`.

    Both receive every verification and every commit, regardless of which one drafted: a memory
    continues to learn, and a model reads the tokens it missed when it proposes next. Fallbacks can
    be nested to put any number of drafters in order.

    Where the first drafter must gain as much as the second one promises (`Worth.beside`), and the
    second one has no draft after all, a smaller gain of the first one is enough.
    """

    def propose(
        self, states: Sequence[PairState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return the drafts of the first drafter; the second fills the empty ones."""
        drafts = [EMPTY_DRAFT] * len(states)
        if any(self._wanted(budgets, second=False)):
            drafts = list(self._ask_first(states, tails, budgets))
        wanted = self._wanted(budgets, second=True)
        gaps = [i for i, draft in enumerate(drafts) if wanted[i] and not len(draft)]
        if gaps:
            filled = self._ask_second(
                [states[i] for i in gaps], [tails[i] for i in gaps], [budgets[i] for i in gaps]
            )
            for i, draft in zip(gaps, filled, strict=True):
                drafts[i] = draft
        again = [i for i in gaps if not len(drafts[i]) and _is_held_back(budgets[i])]
        if again and any(self._wanted(budgets, second=False)):
            found = self._ask_first(
                [states[i] for i in again],
                [tails[i] for i in again],
                [_without_least(budgets[i]) for i in again],
            )
            for i, draft in zip(again, found, strict=True):
                drafts[i] = draft
        return drafts


def _is_held_back(budget: Budget) -> bool:
    return budget.worth is not None and bool(budget.worth.beside)


def _without_least(budget: Budget) -> Budget:
    assert budget.worth is not None  # `_is_held_back`
    return replace(budget, worth=replace(budget.worth, least=0.0, beside=""))


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Fallback:
    first, second = inner
    return Fallback(first=first, second=second)


METHOD = DrafterMethod(
    name="fallback",
    cls=Fallback,
    summary="the first drafter, or the second where the first proposes nothing",
    memory="of its parts",
    make=_make,
    priors=pair_priors,
    inner=2,
)
