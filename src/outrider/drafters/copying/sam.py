"""SAM-Decoding: copy what followed the longest suffix of the text that occurred before.

Hu et al., arXiv 2411.10666. A suffix automaton of the growing text finds the match in a few steps
per token. A second automaton, of a corpus, is constant and may be shared. The longer the match, the
longer the copy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outrider.core.errors import OptionError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray
from outrider.drafters.copying.copies import (
    Copier,
    chain,
    check_levels,
    copied,
    goes_on,
    level,
    origin_of,
)
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod, by_match
from outrider.memories.automaton import ROOT, TextAutomaton
from outrider.memories.frozen import FrozenAutomaton
from outrider.policies import Source
from outrider.protocols import Drafter, Request
from outrider.protocols.method import Paper, Value

LEVELS = (2, 3, 5, 9, 17)
"""Match lengths at which the confidence in a copy rises."""

_READ_BACK = 256
"""Number of tokens at the end of a prompt that are matched with the corpus. A longer match would
not make drafts longer, because `longest` is reached much earlier."""


@dataclass(slots=True)
class SamState:
    """The state of one request: the automaton of its text, and its current match in the corpus."""

    ends: frozenset[int]
    text: TextAutomaton
    state: int = ROOT
    length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sam(Copier[SamState]):
    """Proposes what followed the first occurrence of the longest suffix of the text.

    A match in the corpus counts `handicap` tokens less than a match in the text. The draft is at
    most `factor` times as long as the better match, which is also `Draft.match`. The paper uses
    another drafter if it is below 5 (as `Switch` does). A copy that reaches the end of the text
    continues with itself; a copy from the corpus ends with its document.

    Attributes:
        static: the automaton of a corpus.
        handicap: subtracted from the length of a match in the corpus.
        longest: largest number of tokens drafted at once.
        factor: tokens drafted for each token of the match.
        levels: shortest matches of each origin (`sam2` for 2, `sam3` for 3 and 4, ...); a match
            below the first level is not used.
        max_tokens: largest number of tokens of a text that are learned.
        name: the source its tokens are counted under.

    Raises:
        OptionError: a number below 1, a negative handicap, or levels that are not ascending.
    """

    static: FrozenAutomaton | None = None
    handicap: int = 5
    longest: int = 40
    factor: int = 4
    levels: tuple[int, ...] = LEVELS
    max_tokens: int = 1 << 18
    name: str = "sam"

    def __post_init__(self) -> None:
        if min(self.longest, self.factor, self.max_tokens) < 1 or self.handicap < 0:
            raise OptionError(
                f"longest is {self.longest}, factor {self.factor}, max_tokens {self.max_tokens}, "
                f"handicap {self.handicap}",
                hint="Give at least 1, and a handicap from 0",
            )
        check_levels(self.levels)

    @property
    def origins(self) -> tuple[str, ...]:
        """One origin per level of match length."""
        return tuple(self.origins_by_match.values())

    @property
    def origins_by_match(self) -> dict[int, str]:
        """Maps the shortest match length of each level to the origin of the draft, longest
        first."""
        return {n: origin_of(self.name, n) for n in reversed(self.levels)}

    def _begin(self, request: Request, old: SamState | None) -> SamState:
        prompt = request.source_ids
        same = isinstance(old, SamState) and goes_on(prompt, old.text.text)
        text = old.text if same and old else TextAutomaton(self.max_tokens)
        state = SamState(request.sampler.end_ids, text)
        text.extend(prompt[len(text.text) :])
        if self.static is not None:
            recent = prompt[-_READ_BACK:]
            state.state, state.length = self.static.walk(ROOT, 0, recent)
        return state

    def _draft(self, state: SamState, tail: IntArray, budget: Budget) -> Draft:
        rest = tail.tolist() if len(tail) else []
        found, length = state.text.match(rest)
        if self.static is not None:
            known, static = self.static.walk(state.state, state.length, rest)
            if static - self.handicap > length:
                draft = self._from_corpus(state, known, static, budget)
                if len(draft):  # otherwise the document ends there
                    return draft
        size, _ = self._size(length, budget)
        if size < 1:
            return EMPTY_DRAFT
        place, length = state.text.occurrence(
            found,
            length,
            wanted=size,
            known=len(state.text.text) + len(rest),
            least=self.levels[0],
        )
        size, origin = self._size(length, budget)
        tokens = copied(state.text.text, rest, place, size)
        return chain(tokens, state.ends, self.name, origin=origin, match=length)

    def _commit(self, state: SamState, tokens: list[int]) -> None:
        state.text.extend(tokens)
        if self.static is not None:
            state.state, state.length = self.static.walk(state.state, state.length, tokens)

    def _from_corpus(self, state: SamState, found: int, length: int, budget: Budget) -> Draft:
        assert self.static is not None
        counts = length - self.handicap
        size, origin = self._size(counts, budget)
        tokens = self.static.continuation(self.static.firsts[found], size)
        return chain(tokens, state.ends, self.name, origin=origin, match=counts)

    def _size(self, match: int, budget: Budget) -> tuple[int, str]:
        """Return the number of tokens to draft after a match, and the origin of the draft."""
        least = level(match, self.levels)
        if not least:
            return 0, ""
        origin = origin_of(self.name, least)
        return min(budget.share(origin), budget.nodes, self.longest, self.factor * match), origin


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Sam:
    return Sam(static=given.datastore, **options)  # pyright: ignore[reportArgumentType]


def _priors(drafter: Sam, given: Given) -> tuple[Source, ...]:
    return by_match(drafter.origins_by_match, tree=False)


METHOD = DrafterMethod(
    name="sam",
    cls=Sam,
    summary="the tokens that followed the longest match in the text, or in a datastore",
    paper=Paper("SAM-Decoding", "2411.10666"),
    memory="about 550n, up to 2^18 tokens",
    make=_make,
    priors=_priors,
    store=FrozenAutomaton,
)
