"""Two drafters, of which the first is preferred when it is confident, e.g. copies after long
matches."""

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
    """Uses the draft of `first` if its confidence is high enough, otherwise the draft of `second`.

    SAM-Decoding (arXiv 2411.10666) copies after a match of at least five tokens and uses a tree
    drafter otherwise. SuffixDecoding (arXiv 2411.04975) compares the expected length of its copy
    with the usual accepted length of the other drafter. If `second` proposes nothing, the draft of
    `first` is used despite its low confidence.

    Attributes:
        first: proposes for every request; it must report its confidence.
        second: proposes for the requests for which the confidence of `first` was too low.
        at_least: the lowest confidence that suffices.
        by: the measure of confidence: `match`, the number of matching tokens (`Draft.match`), or
            `score`, the number of tokens that the drafter expects to be kept (`Draft.score`).

    Raises:
        OptionError: an unknown measure.
    """

    at_least: float = 5.0
    by: str = "match"

    def __post_init__(self) -> None:
        if self.by not in MEASURES:
            raise OptionError(f"by is {self.by!r}", hint=f"Give one of: {', '.join(MEASURES)}")
        Pair.__post_init__(self)

    def propose(
        self, states: Sequence[PairState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one draft per request, from one of the two drafters."""
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
    summary="the first drafter where its match is long enough, otherwise the second",
    paper=Paper("SAM-Decoding", "2411.10666"),
    memory="of its parts",
    make=_make,
    priors=pair_priors,
    inner=2,
)
