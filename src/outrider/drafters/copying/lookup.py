"""Prompt lookup: propose what followed an earlier occurrence of the last tokens.

Prompt lookup decoding (Saxena 2023): find the last few tokens of the text earlier in the text, and
propose the tokens that followed them. No model is called. The method is effective if the output
repeats the prompt or itself: summaries, quotations, edits of code, lists, loops.
"""

from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE
from outrider.core.errors import OptionError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray
from outrider.drafters.copying.copies import Copier, chain, copied, goes_on, origin_of
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod, by_match
from outrider.memories.ngrams import NGramIndex
from outrider.policies import Source
from outrider.protocols import Request
from outrider.protocols.method import Paper

OCCURRENCES = ("latest", "first")


@dataclass(slots=True)
class LookupState:
    """The end tokens of one request, and the index of its text."""

    ends: frozenset[int]
    index: NGramIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup(Copier[LookupState]):
    """Proposes the continuation of the longest n-gram at the end of the text that occurred before.

    The published code uses the earliest occurrence with ten tokens after it, for n = 3, 2, 1
    (`Lookup(max_ngram=3, min_ngram=1, occurrence="first", behind=10)`). The defaults here differ:
    the newest occurrence is used, because recent text is more likely to be repeated; a short
    continuation is sufficient; single tokens are not looked up, because they often match by chance.
    A copy that reaches the end of the text continues with itself, so a loop is proposed at full
    length.

    The reliability of a match depends on its length. Drafts are therefore counted by the length of
    their match (`origins_by_match`), and a policy can request long copies after long matches and
    none after short ones.

    Proposing costs one lookup per length, independent of the size of the text. Only `begin` and
    `commit` extend the index, by one entry per token and length.

    Attributes:
        max_ngram: longest suffix looked up.
        min_ngram: shortest suffix looked up.
        occurrence: `latest` or `first`.
        behind: an occurrence with fewer tokens of the text after it is ignored.
        name: the source its tokens are counted under.

    Raises:
        OptionError: lengths that are not 1 <= min_ngram <= max_ngram, an unknown occurrence, or
            `behind` below 1.
    """

    max_ngram: int = 5
    min_ngram: int = 2
    occurrence: str = "latest"
    behind: int = 1
    name: str = "lookup"

    def __post_init__(self) -> None:
        if not 1 <= self.min_ngram <= self.max_ngram:
            raise OptionError(
                f"min_ngram is {self.min_ngram} and max_ngram {self.max_ngram}",
                hint="Give 1 <= min_ngram <= max_ngram",
            )
        check_occurrence(self.occurrence)
        AT_LEAST_ONE.check("behind", self.behind)

    @property
    def lengths(self) -> range:
        """The lengths of the n-grams that are looked up, longest first."""
        return range(self.max_ngram, self.min_ngram - 1, -1)

    @property
    def origins(self) -> tuple[str, ...]:
        """One origin per match length."""
        return tuple(self.origins_by_match.values())

    @property
    def origins_by_match(self) -> dict[int, str]:
        """Maps the length of a match to the origin of the draft; `max_ngram` also covers longer
        matches."""
        return {n: origin_of(self.name, n) for n in self.lengths}

    def _begin(self, request: Request, old: LookupState | None) -> LookupState:
        return LookupState(
            request.sampler.end_ids, indexed(request, self.lengths, self.occurrence, old)
        )

    def _draft(self, state: LookupState, tail: IntArray, budget: Budget) -> Draft:
        rest = tail.tolist() if len(tail) else []
        hit = state.index.find(rest, behind=self.behind)
        if hit is None:
            return EMPTY_DRAFT
        origin = origin_of(self.name, hit.length)
        size = min(budget.share(origin), budget.nodes)
        tokens = copied(state.index.text, rest, hit.place, size)
        return chain(tokens, state.ends, self.name, origin=origin, match=hit.length)

    def _commit(self, state: LookupState, tokens: list[int]) -> None:
        state.index.extend(tokens)


def check_occurrence(occurrence: str) -> None:
    """Raise `OptionError` unless `occurrence` is one of `OCCURRENCES`."""
    if occurrence not in OCCURRENCES:
        raise OptionError(f"unknown occurrence {occurrence!r}", hint="Give 'latest' or 'first'")


def indexed(
    request: Request, lengths: range, occurrence: str, old: LookupState | None
) -> NGramIndex:
    """Return the index of a prompt; the index of an earlier turn is extended if it covers the same
    text.
    """
    prompt = request.source_ids
    index = NGramIndex(lengths, occurrence)
    if isinstance(old, LookupState) and old.index.is_like(index):  # same drafter
        index = old.index if goes_on(prompt, old.index.text) else index
    index.extend(prompt[len(index.text) :])
    return index


def priors(drafter: Lookup, given: Given) -> tuple[Source, ...]:
    """Return the priors of copies, by the length of their match."""
    return by_match(drafter.origins_by_match, tree=False)


METHOD = DrafterMethod(
    name="lookup",
    cls=Lookup,
    summary="prompt lookup: the tokens that followed the last few tokens earlier in the text",
    paper=Paper("prompt lookup decoding, Saxena 2023"),
    memory="100n for each length of n-gram",
    defaults={"min_ngram": 1},
    priors=priors,
)
