"""Prompt lookup: what followed these tokens the last time they stood in the text.

Prompt lookup decoding (Saxena 2023): find the last few tokens of the text earlier in the text, and
propose what followed them there. No model is called. It pays where the output repeats the prompt
or itself: summaries, quotations, edits of code, lists, loops.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from outrider.counters import Counters
from outrider.errors import OptionError
from outrider.protocols import Needs, Request
from outrider.tree import chain_parents
from outrider.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified, as_ids

OCCURRENCES = ("latest", "first")


@dataclass(slots=True)
class LookupState:
    """The text of one request, and where the tokens after each of its n-grams begin.

    An n-gram enters the index when the token after it arrives, so the end of the text never finds
    itself.
    """

    ends: frozenset[int]
    text: list[int] = field(default_factory=list)
    after: dict[tuple[int, ...], int] = field(default_factory=dict)

    def extend(self, tokens: Sequence[int], lengths: range, latest: bool) -> None:
        """Append to the text and index the n-grams that now have a follower."""
        text, after = self.text, self.after
        begin = len(text)
        text.extend(tokens)
        for place in range(max(begin, 1), len(text)):
            for n in lengths:
                if n > place:
                    continue
                key = tuple(text[place - n : place])
                if latest:
                    after[key] = place
                else:
                    after.setdefault(key, place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Proposes the continuation of the longest n-gram at the end of the text that occurred before.

    The published code takes the earliest occurrence with ten tokens after it, for n = 3, 2, 1.
    Here the newest occurrence is the default (what was said last is likelier to be said again), a
    short continuation will do, and single tokens do not count: they match by chance. A copy that
    reaches the end of the text goes on with itself, so a loop is proposed at full length.

    How far a match can be trusted depends on its length, so drafts are booked by it (`origins`),
    and a policy can ask for long copies after long matches and for none after short ones.

    Proposing costs one dictionary look-up for each length, whatever the size of the text; the
    index grows in `begin` and `commit` only, by one entry for each token and length.

    Attributes:
        max_ngram: longest suffix looked up.
        min_ngram: shortest suffix looked up.
        occurrence: `latest` or `first`.
        name: the source its tokens are counted under.

    Raises:
        OptionError: lengths that are not 1 <= min_ngram <= max_ngram, or an unknown occurrence.
    """

    max_ngram: int = 5
    min_ngram: int = 2
    occurrence: str = "latest"
    name: str = "lookup"

    draw = Draw.DETERMINISTIC
    gives = Needs(law=True)
    """A deterministic choice is its own law, a point mass; nobody vouched for it."""
    learns = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_ngram <= self.max_ngram:
            raise OptionError(
                f"n-grams from {self.min_ngram} to {self.max_ngram} are to be looked up",
                hint="Give 1 <= min_ngram <= max_ngram",
            )
        if self.occurrence not in OCCURRENCES:
            raise OptionError(
                f"unknown occurrence {self.occurrence!r}", hint="Give 'latest' or 'first'"
            )

    @property
    def lengths(self) -> range:
        """The lengths of n-grams, longest first."""
        return range(self.max_ngram, self.min_ngram - 1, -1)

    @property
    def origins(self) -> dict[int, str]:
        """What a draft is booked under, by the length of its match; `max_ngram` stands for longer
        matches as well."""
        return {n: f"{self.name}{n}" for n in self.lengths}

    def bind(self, needs: Needs, tier: int) -> "Lookup":
        """Nothing to prepare: laws are point masses, and there are no references to give."""
        return self

    def begin(
        self, requests: Sequence[Request], previous: Sequence[LookupState | None] | None = None
    ) -> list[LookupState]:
        """Index each prompt; what `previous` shares with it is not indexed again."""
        old = previous or [None] * len(requests)
        return [self._begin(*pair) for pair in zip(requests, old, strict=True)]

    def propose(
        self, states: Sequence[LookupState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """One chain a request; empty where nothing is found."""
        return [self._draft(*parts) for parts in zip(states, tails, budgets, strict=True)]

    def observe(self, states: Sequence[LookupState], verified: Sequence[Verified]) -> None:
        """Refused tokens are not text."""

    def commit(self, states: Sequence[LookupState], tokens: Sequence[IntArray]) -> None:
        """Index what has become text."""
        for state, emitted in zip(states, tokens, strict=True):
            state.extend(emitted.tolist(), self.lengths, self.occurrence == "latest")

    def counters(self, state: LookupState) -> dict[str, Counters]:
        """No model is called: what it drafts is counted by the tier that verifies it."""
        return {}

    def _begin(self, request: Request, old: LookupState | None) -> LookupState:
        prompt = list(request.prompt.token_ids)
        same = isinstance(old, LookupState) and prompt[: len(old.text)] == old.text
        ends = request.sampler.end_ids
        state = LookupState(ends, old.text, old.after) if same and old else LookupState(ends)
        state.extend(prompt[len(state.text) :], self.lengths, self.occurrence == "latest")
        return state

    def _draft(self, state: LookupState, tail: IntArray, budget: Budget) -> Draft:
        if budget.depth < 1:
            return EMPTY_DRAFT
        text = state.text
        if len(tail):  # not indexed: the tail may still be refused
            text = text[-self.max_ngram :] + tail.tolist()
        for n in self.lengths:
            place = state.after.get(tuple(text[-n:])) if n <= len(text) else None
            if place is not None:
                origin = f"{self.name}{n}"
                size = min(budget.share(origin), budget.nodes)
                return self._chain(_copy(state.text, tail, place, size), state.ends, origin)
        return EMPTY_DRAFT

    def _chain(self, tokens: list[int], ends: frozenset[int], origin: str) -> Draft:
        if not ends.isdisjoint(tokens):  # nothing stands after an end token
            tokens = tokens[: 1 + next(i for i, t in enumerate(tokens) if t in ends)]
        size = len(tokens)
        if not size:
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(tokens),
            parents=chain_parents(size),
            sources=(self.name,) * size,
            origin=origin,
        )


def _copy(text: list[int], tail: IntArray, place: int, size: int) -> list[int]:
    """`size` tokens from `place` on; past the end of the text (and tail) it copies itself."""
    if size < 1:
        return []
    copied = text[place : place + size]
    if len(copied) < size and len(tail):
        copied += tail.tolist()[: size - len(copied)]
    period = len(copied)
    while len(copied) < size:
        copied.append(copied[len(copied) - period])
    return copied
