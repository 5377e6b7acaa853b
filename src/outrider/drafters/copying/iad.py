"""Aggressive decoding: draft the rest of the input, and find the position again after an edit.

Input-guided aggressive decoding (IAD; Ge et al., arXiv 2205.10350), for outputs that mostly repeat
their input: corrections, simplifications, edits of code. The drafter keeps a position in the
source. While the output follows the source, the draft is the remaining source. After a difference,
the newest output tokens are looked up in the source; if they occur exactly once, drafting continues
after that occurrence.
"""

from dataclasses import dataclass, field

from outrider.core.checks import Range
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray
from outrider.drafters.copying.copies import Copier, chain
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod, copies
from outrider.memories.ngrams import NGramIndex
from outrider.policies import Source
from outrider.protocols import Request
from outrider.protocols.method import Paper

_LENGTHS = (1, 2, 3)


@dataclass(slots=True)
class AggressiveState:
    """One request: the source, the newest output, and the position of the output in the source.

    `place` is the index of the next expected source token; None while it is unknown.
    """

    ends: frozenset[int]
    source: NGramIndex
    recent: list[int] = field(default_factory=list)
    place: int | None = 0


_LONGEST = Range(1, hint="Draft at least 1 token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggressive(Copier[AggressiveState]):
    """Proposes the rest of the source from the current position of the output (IAD).

    To find the position, the last output token is looked up in the source. If it occurs once, this
    is the position. If it occurs more often, the last two tokens are looked up, then the last
    three. An n-gram that does not occur, or a trigram that occurs more than once, gives no draft.
    An n-gram counts only if a token follows it.

    Attributes:
        span: the part of the prompt that is the source, as the bounds of a slice; negative bounds
            count from the end. The default is the whole prompt.
        longest: largest number of tokens drafted at once; the paper drafts the whole rest.
        name: the source and origin of its drafts.

    Raises:
        OptionError: `longest` below 1.
    """

    span: tuple[int, int | None] = (0, None)
    longest: int = 128
    name: str = "iad"

    def __post_init__(self) -> None:
        _LONGEST.check("longest", self.longest)

    def _begin(self, request: Request, old: AggressiveState | None) -> AggressiveState:
        source = request.prediction or request.prompt.token_ids[slice(*self.span)]
        if isinstance(old, AggressiveState) and tuple(old.source.text) == source:
            index = old.source
        else:
            index = NGramIndex(_LENGTHS, "only")
            index.extend(source)
        return AggressiveState(request.sampler.end_ids, index)

    def _draft(self, state: AggressiveState, tail: IntArray, budget: Budget) -> Draft:
        size = min(budget.share(self.name), budget.nodes, self.longest)
        place = state.place
        if len(tail):  # the tail may still be rejected, so it is not stored
            _, place = follow(state.source, state.recent, place, tail.tolist())
        if place is None or size < 1:
            return EMPTY_DRAFT
        tokens = state.source.text[place : place + size]
        return chain(tokens, state.ends, self.name, origin=self.name)

    def _commit(self, state: AggressiveState, tokens: list[int]) -> None:
        state.recent, state.place = follow(state.source, state.recent, state.place, tokens)


def follow(
    source: NGramIndex, recent: list[int], place: int | None, tokens: list[int]
) -> tuple[list[int], int | None]:
    """Return the newest output tokens and the position in the source after `tokens` were
    written.
    """
    text = source.text
    for token in tokens:
        recent = [*recent[1 - _LENGTHS[-1] :], token]
        if place is not None and place < len(text) and text[place] == token:
            place += 1
        else:
            place = source.unique(recent)
    return recent, place


def _priors(drafter: Aggressive, given: Given) -> tuple[Source, ...]:
    return (copies(drafter.name, 0.6),)


METHOD = DrafterMethod(
    name="iad",
    cls=Aggressive,
    summary="the rest of the prompt, aligned again after each change; for edits and corrections",
    paper=Paper("Aggressive Decoding", "2205.10350"),
    memory="100n for each length of n-gram",
    priors=_priors,
)
