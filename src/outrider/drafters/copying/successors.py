"""Chains of usual followers, each with a measured chance; the draft ends where one does not pay.

The follower of the last 1 to 4 tokens in the text, and of the last 1 to 3 tokens in earlier
answers, are the candidates for the next token. Their chances are not guessed: every token that is
emitted shows, for all candidates of its place, which were right, drafted or not. Rates are counted
by kind of candidate, and the candidate with the largest chance is drafted. llama.cpp's lookup
example and ANPD (Ou et al., arXiv 2404.08698) draft from such tables too, with fixed thresholds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.types import Budget, Draft, IntArray, Worth
from outrider.drafters.copying.copies import Copier, chain, goes_on
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.memories.followers import SHARES, VOTES, Followed, Followers
from outrider.policies import Source
from outrider.protocols import Request
from outrider.protocols.method import Paper

_SHARED = 1 << 18
"""Contexts of each length that are kept from earlier answers."""
_BELIEF = 4.0
"""Weight of the prior of a kind of candidate, in tested tokens."""
_FORGET = 512.0
"""Number of tested tokens at which the counts of a kind are halved."""
_LONGEST = 16
_LEAST = Range(0.0, 1.0, hint="Give a chance from 0 to 1")


class Candidate(NamedTuple):
    """A token that may come next.

    Attributes:
        token: its id.
        kind: index of its kind in `Chances`.
    """

    token: int
    kind: int


@dataclass(slots=True)
class Chances:
    """How often candidates of each kind were right.

    A kind is the memory (this text or earlier answers), the length of the context, and the classes
    of its votes and of their share.

    Attributes:
        hits: by kind, how many were right, with half the weight after every 512.
        trials: by kind, how many were tested.
    """

    hits: list[float]
    trials: list[float]

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
        return cls([_BELIEF * prior for prior in priors], [_BELIEF] * len(priors))

    def of_kind(self, kind: int) -> float:
        """Return the chance that a candidate of this kind is right."""
        return self.hits[kind] / self.trials[kind]

    def note(self, kind: int, right: bool) -> None:
        """Count one more candidate."""
        if self.trials[kind] >= _FORGET:
            self.hits[kind] *= 0.5
            self.trials[kind] *= 0.5
        self.hits[kind] += right
        self.trials[kind] += 1.0


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
    """

    ends: frozenset[int]
    text: list[int]
    own: Followers
    written: int


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

    own: int = 4
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
        prompt = request.prompt.token_ids
        if isinstance(old, SuccessorsState) and goes_on(prompt, old.text):
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
            for candidate in self._candidates(state, text[-longest:]):
                self.chances.note(candidate.kind, candidate.token == token)
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
        most = min(budget.share(self.name), budget.nodes, _LONGEST)
        worth = budget.worth or Worth(floors=(self.least,) * most)
        floors = worth.floors[:most]
        lowest = min(floors, default=1.0)
        tokens: list[int] = []
        kept, reach, gain = 0, 1.0, 0.0
        most_gained = max(worth.least, 0.0)
        for floor in floors:
            best = self._best(state, last[-longest:])
            if best is None or (reach := reach * self.chances.of_kind(best.kind)) < lowest:
                break
            gain += reach - floor
            tokens.append(best.token)
            last.append(best.token)
            if gain >= most_gained:
                kept, most_gained = len(tokens), gain
        return chain(tokens[:kept], state.ends, self.name, origin=self.name)

    def _best(self, state: SuccessorsState, tail: Sequence[int]) -> Candidate | None:
        chance = self.chances.of_kind
        return max(
            self._candidates(state, tail), key=lambda found: chance(found.kind), default=None
        )

    def _candidates(self, state: SuccessorsState, tail: Sequence[int]) -> Iterator[Candidate]:
        for found in state.own.find(tail):
            yield Candidate(found.token, _kind(found))
        if self.shared:
            first = self.own * len(VOTES) * len(SHARES)
            for found in self.memory.find(tail):
                yield Candidate(found.token, first + _kind(found))


def _kind(found: Followed) -> int:
    return ((found.length - 1) * len(VOTES) + found.votes) * len(SHARES) + found.share


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
    memory="about 800n, and up to 100 MB for earlier answers",
    priors=_priors,
)
