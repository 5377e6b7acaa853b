"""Two drafters, of which the sure one goes first: copies where the match is long, say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outrider.core.errors import OptionError
from outrider.core.types import Budget, Draft, IntArray
from outrider.drafters.combine.pair import Pair, PairState, pair_priors
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.protocols import Drafter
from outrider.protocols.method import Paper, Value

MEASURES = ("match", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch(Pair):
    """Takes the draft of `first` where it is sure enough, else that of `second`.

    SAM-Decoding (arXiv 2411.10666) copies where at least five tokens match and hands over to a tree
    drafter elsewhere; SuffixDecoding (arXiv 2411.04975) compares the expected length of its copy
    with what the other drafter usually gets accepted. Where `second` has nothing, the unsure draft
    of `first` is taken.

    Attributes:
        first: asked for every request; it must say how sure it is.
        second: asked for the requests of which `first` was not sure.
        at_least: how sure is enough.
        by: `match`, the number of matching tokens (`Draft.match`), or `score`, the number of tokens
            that the drafter expects to be kept (`Draft.score`).

    Raises:
        OptionError: an unknown measure.
    """

    at_least: float = 5.0
    by: str = "match"

    def __post_init__(self) -> None:
        if self.by not in MEASURES:
            raise OptionError(
                f"a switch by {self.by!r}", hint=f"Give one of: {', '.join(MEASURES)}"
            )
        Pair.__post_init__(self)

    def propose(
        self, states: Sequence[PairState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """One draft a request, from the one or the other."""
        drafts = list(self._ask_first(states, tails, budgets))
        unsure = [i for i, draft in enumerate(drafts) if not self._sure(draft)]
        if unsure:
            others = self._ask_second(
                [states[i] for i in unsure],
                [tails[i] for i in unsure],
                [budgets[i] for i in unsure],
            )
            for i, other in zip(unsure, others, strict=True):
                drafts[i] = other if len(other) else drafts[i]
        return drafts

    def _sure(self, draft: Draft) -> bool:
        if not len(draft):
            return False
        value = draft.match if self.by == "match" else draft.score
        return value is not None and value >= self.at_least


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Switch:
    first, second = inner
    return Switch(first=first, second=second, **options)  # pyright: ignore[reportArgumentType]


METHOD = DrafterMethod(
    name="switch",
    cls=Switch,
    summary="the first drafter where its match is long enough, else the second",
    paper=Paper("SAM-Decoding", "2411.10666"),
    memory="of its parts",
    make=_make,
    priors=pair_priors,
    inner=2,
)
