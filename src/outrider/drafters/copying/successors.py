"""Chains of usual followers, each with a measured chance; the draft ends where one does not pay.

The follower of the last 1 to 6 tokens in the text, and of the last 1 to 3 tokens in earlier
answers, are the candidates for the next token. Their chances are not guessed: every token that is
emitted shows, for all candidates of its place, which were right, drafted or not. Rates are counted
by kind of candidate, and the candidate with the largest chance is drafted. llama.cpp's lookup
example and ANPD (Ou et al., arXiv 2404.08698) draft from such tables too, with fixed thresholds.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.types import Budget, Draft, IntArray, Worth
from outrider.drafters.copying.copies import Copier, chain, goes_on
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.memories.followers import CLASSES, SHARES, VOTES, Followers
from outrider.policies import Source
from outrider.protocols import Request
from outrider.protocols.method import Paper

_SHARED = 1 << 18
"""Contexts of each length that are kept from earlier answers."""
_BELIEF = 4.0
"""Weight of the prior of a kind of candidate, in tested tokens."""
_FORGET = 512.0
"""Number of tested tokens at which the counts of a kind are halved."""
_AGREEMENT = (0.6, 0.9)
"""Chance of the best candidate relative to its rate, where others disagree and where none does,
until it is measured."""
STREAKS, _MISSED = (0, 2, 6, 16), (1.0, 0.8, 0.5, 0.25)
"""Lengths of streaks from which chances are counted separately, and the share of the chance to be
wrong that remains, until it is measured."""
_LONGEST = 16
_LEAST = Range(0.0, 1.0, hint="Give a chance from 0 to 1")


Candidate = tuple[int, int]
"""A token that may come next, and its kind: an index in `Chances`."""


class Best(NamedTuple):
    """The best candidate of a place.

    Attributes:
        token: its id.
        chance: the chance that it is right.
        place: index in the counts of best candidates.
    """

    token: int
    chance: float
    place: int


@dataclass(slots=True)
class Chances:
    """How often candidates of each kind were right.

    A kind is the memory (this text or earlier answers), the length of the context, and the classes
    of its votes and of their share. Rates of all candidates decide which one is the best of a
    place. Its own chance is counted separately: the largest of several estimates is too large on
    average, and more so where the candidates do not agree. It rises with the streak: a text that
    copies a passage follows it for long.

    Attributes:
        hits: by kind, how many were right, with half the weight after every 512.
        trials: by kind, how many were tested.
        best_hits: by kind, agreement and streak, how many of the best candidates were right.
        best_trials: by kind, agreement and streak, how many of them were tested.
    """

    hits: list[float]
    trials: list[float]
    best_hits: list[float]
    best_trials: list[float]

    @classmethod
    def of(cls, own: int, shared: int) -> "Chances":
        """Create the priors for contexts of up to `own` and `shared` tokens."""
        priors = [
            _prior(length, votes, share)
            for longest in (own, shared)
            for length in range(1, longest + 1)
            for votes in range(len(VOTES))
            for share in range(len(SHARES))
        ]
        best = [
            _BELIEF * (1.0 - (1.0 - share * prior) * missed)
            for prior in priors
            for share in _AGREEMENT
            for missed in _MISSED
        ]
        return cls(
            [_BELIEF * prior for prior in priors],
            [_BELIEF] * len(priors),
            best,
            [_BELIEF] * len(best),
        )

    def best(self, found: Sequence[Candidate], streak: int) -> Best | None:
        """Return the candidate with the largest rate, and its chance to be right after `streak`
        tokens that the longest known context predicted.
        """
        if not found:
            return None
        hits, trials = self.hits, self.trials
        token, kind = max(found, key=lambda one: hits[one[1]] / trials[one[1]])
        agree = all(other == token for other, _ in found)
        place = (2 * kind + agree) * len(STREAKS) + bisect_right(STREAKS, streak) - 1
        return Best(token, self.best_hits[place] / self.best_trials[place], place)

    def note(self, found: Sequence[Candidate], streak: int, token: int) -> int:
        """Count the candidates of a place at which `token` was written; return the streak after
        it.
        """
        best = self.best(found, streak)
        if best is not None:
            _add(self.best_hits, self.best_trials, best.place, best.token == token)
        for other, kind in found:
            _add(self.hits, self.trials, kind, other == token)
        return streak + 1 if found and found[0][0] == token else 0


def _add(hits: list[float], trials: list[float], place: int, right: bool) -> None:
    if trials[place] >= _FORGET:
        hits[place] *= 0.5
        trials[place] *= 0.5
    hits[place] += right
    trials[place] += 1.0


def _prior(length: int, votes: int, share: int) -> float:
    """Return a first estimate, from answers of SmolLM2-135M-Instruct to training prompts."""
    return min((0.1, 0.2, 0.35, 0.4)[share] + 0.08 * (length - 1) + 0.05 * min(votes, 2), 0.9)


@dataclass(slots=True)
class SuccessorsState:
    """The state of one request.

    Attributes:
        ends: ids that end the text.
        text: the prompt and the committed output.
        own: followers in this text.
        written: length of the text up to which the shared memory has learned it.
        streak: number of last tokens that the longest known context predicted.
    """

    ends: frozenset[int]
    text: list[int]
    own: Followers
    written: int
    streak: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Successors(Copier[SuccessorsState]):
    """Proposes the chain of likeliest followers with the largest gain.

    A token gains its chance to be kept, together with all tokens before it, less the floor that the
    policy derives from the measured cost of its row (`Budget.worth`); without costs, the floor is
    `least`. Costs grow in steps, so a chain may pass a token that does not pay by itself.

    Attributes:
        own: tokens of the longest context in the text of the request.
        shared: tokens of the longest context in earlier answers; 0 uses this text only.
        least: smallest chance of a token if the budget states no costs.
        max_tokens: largest number of tokens of a text that are learned, counted from its end.
        name: the source its tokens are counted under.

    Raises:
        OptionError: a number out of range.
    """

    own: int = 6
    shared: int = 3
    least: float = 0.2
    max_tokens: int = 1 << 16
    name: str = "successors"
    memory: Followers = field(init=False, repr=False, compare=False)
    chances: Chances = field(init=False, repr=False, compare=False)
    _waiting: list[SuccessorsState] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        AT_LEAST_ONE.check("own", self.own)
        AT_LEAST_ONE.check("max_tokens", self.max_tokens)
        Range(0, hint="Give 0 or more tokens").check("shared", self.shared)
        _LEAST.check("least", self.least)
        object.__setattr__(self, "memory", Followers(max(self.shared, 1), _SHARED))
        object.__setattr__(self, "chances", Chances.of(self.own, self.shared))
        object.__setattr__(self, "_waiting", [])

    def _begin(self, request: Request, old: SuccessorsState | None) -> SuccessorsState:
        self._share_answers()
        prompt = request.source_ids
        same = isinstance(old, SuccessorsState) and old.own.longest == self.own
        if same and old and goes_on(prompt, old.text):
            state, start = old, len(old.text)
            state.text += prompt[start:]
        else:
            own = Followers(self.own, 2 * self.max_tokens)
            state = SuccessorsState(request.sampler.end_ids, list(prompt), own, len(prompt))
            start = max(len(prompt) - self.max_tokens, 0)
        state.ends, state.written = request.sampler.end_ids, len(state.text)
        state.own.learn(state.text, start)
        return state

    def _commit(self, state: SuccessorsState, tokens: list[int]) -> None:
        text, longest = state.text, max(self.own, self.shared)
        for token in tokens:
            found = self._candidates(state, text[-longest:])
            state.streak = self.chances.note(found, state.streak, token)
            text.append(token)
            state.own.learn(text, len(text) - 1)
        if self.shared and not any(state is waiting for waiting in self._waiting):
            self._waiting.append(state)

    def _share_answers(self) -> None:
        """Learn what was written since the last request began, so that the shared memory does not
        repeat what the memory of a running request knows.
        """
        for state in self._waiting:
            self.memory.learn(state.text[state.written :], 1)
            state.written = len(state.text)
        self._waiting.clear()

    def _draft(self, state: SuccessorsState, tail: IntArray, budget: Budget) -> Draft:
        longest = max(self.own, self.shared)
        last = [*state.text[-longest:], *tail.tolist()]
        start = len(last)
        most = min(budget.share(self.name), budget.nodes, _LONGEST)
        worth = budget.worth or Worth(floors=(self.least,) * most)
        floors = worth.floors[:most]
        lowest = min(floors, default=1.0)
        tokens: list[int] = []
        kept, reach, gain = 0, 1.0, 0.0
        most_gained = max(worth.least, 0.0)
        for floor in floors:
            found = self._candidates(state, last[-longest:])
            best = self.chances.best(found, state.streak + len(last) - start)
            if best is None or (reach := reach * best.chance) < lowest:
                break
            gain += reach - floor
            tokens.append(best.token)
            last.append(best.token)
            if gain >= most_gained:
                kept, most_gained = len(tokens), gain
        return chain(tokens[:kept], state.ends, self.name, origin=self.name)

    def _candidates(self, state: SuccessorsState, tail: Sequence[int]) -> list[Candidate]:
        found = state.own.find(tail)
        if self.shared:
            first = self.own * CLASSES
            found += [(token, first + kind) for token, kind in self.memory.find(tail)]
        return found


def _priors(drafter: Successors, given: Given) -> tuple[Source, ...]:
    return (
        Source(
            name=drafter.name,
            accept=0.45,
            goes_on=0.6,
            longest=_LONGEST,
            opportunistic=True,
            selects=True,
            fixed=3e-5,
            seconds=5e-6,
        ),
    )


METHOD = DrafterMethod(
    name="successors",
    cls=Successors,
    summary="the usual followers of the last tokens, in this text and in earlier answers, with "
    "measured chances",
    paper=Paper("after ANPD", "2404.08698"),
    memory="about 600n, and up to 120 MB for earlier answers",
    priors=_priors,
)
