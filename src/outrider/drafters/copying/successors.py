"""Chains of usual followers, each with a measured chance; the draft ends where one does not pay.

The follower of the last 1 to 6 tokens in the text, and of the last 1 to 3 tokens in earlier
answers, are the candidates for the next token. Their chances are not guessed: every token that is
emitted shows, for all candidates of its place, which were right, drafted or not. Rates are counted
by kind of candidate, and the candidate with the largest chance is drafted. llama.cpp's lookup
example and ANPD (Ou et al., arXiv 2404.08698) draft from such tables too, with fixed thresholds.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray, Worth
from outrider.drafters.copying.copies import Copier, chain, goes_on
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.memories.chances import Best, Chances
from outrider.memories.followers import CLASSES, Followers, Prediction, contexts
from outrider.policies import Source
from outrider.protocols import Request
from outrider.protocols.method import Paper

_SHARED = 1 << 18
"""Contexts of each length that are kept from earlier answers."""
_LONGEST = 16
_GOES_ON = 0.9
"""Chance of a token after a right one, above which the chance of the first one must not be so small
that the chain is looked up."""
_LIKELY = 0.15
"""Chance of the next token from which committed tokens are learned at once, since a draft may pay
that needs them."""
_LEAST = Range(0.0, 1.0, hint="Give a chance from 0 to 1")


@dataclass(frozen=True, slots=True)
class Place:
    """The end of a text.

    Attributes:
        contexts: the keys of its contexts.
        found: what is predicted to follow.
        best: the best prediction.
        streak: number of last tokens that the longest known context predicted.
    """

    contexts: list[Hashable]
    found: list[Prediction]
    best: Best | None
    streak: int

    def streak_after(self, token: int) -> int:
        """Return the streak after `token` is written here."""
        return self.streak + 1 if self.found and self.found[0][0] == token else 0


@dataclass(slots=True)
class SuccessorsState:
    """The state of one request.

    Attributes:
        ends: tokens that end the answer.
        chances: those of texts that are sampled as this one is.
        text: the prompt and the committed output.
        own: followers in this text.
        written: length of the text up to which the shared memory has learned it.
        waiting: whether the shared memory has still to learn a part of it.
        learned: length of the text up to which its own memory has learned it.
        streak: at `learned`, number of last tokens that the longest known context predicted.
        place: the end of the text.
    """

    ends: frozenset[int]
    chances: Chances
    text: list[int]
    own: Followers
    written: int
    waiting: bool = False
    learned: int = 0
    streak: int = 0
    place: Place = Place([], [], None, 0)


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
        together: number of committed tokens that are learned together, since the memory is out of
            the cache of the processor after each forward. Where the next token is likely, they are
            learned at once.
        name: the source its tokens are counted under.

    Raises:
        OptionError: a number out of range.
    """

    own: int = 6
    shared: int = 3
    least: float = 0.2
    max_tokens: int = 1 << 16
    together: int = 8
    name: str = "successors"
    memory: Followers = field(init=False, repr=False, compare=False)
    chances: dict[bool, Chances] = field(init=False, repr=False, compare=False)
    _waiting: list[SuccessorsState] = field(init=False, repr=False, compare=False)
    _longest: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        AT_LEAST_ONE.check("own", self.own)
        AT_LEAST_ONE.check("max_tokens", self.max_tokens)
        AT_LEAST_ONE.check("together", self.together)
        Range(0, hint="Give 0 or more tokens").check("shared", self.shared)
        _LEAST.check("least", self.least)
        chances = {
            False: Chances.of(self.own, self.shared),
            True: Chances.of(self.own, self.shared),
        }
        object.__setattr__(self, "memory", Followers(max(self.shared, 1), _SHARED))
        object.__setattr__(self, "chances", chances)
        object.__setattr__(self, "_waiting", [])
        object.__setattr__(self, "_longest", max(self.own, self.shared))

    def _begin(self, request: Request, old: SuccessorsState | None) -> SuccessorsState:
        self._share_answers()
        prompt = request.source_ids
        same = isinstance(old, SuccessorsState) and old.own.longest == self.own
        chances = self.chances[request.sampler.params.temperature > 0.0]
        if same and old and goes_on(prompt, old.text):
            state, start = old, len(old.text)
            self._learn(state)
            state.text += prompt[start:]
            state.ends, state.chances = request.sampler.end_ids, chances
        else:
            own = Followers(self.own, 2 * self.max_tokens)
            state = SuccessorsState(
                request.sampler.end_ids, chances, list(prompt), own, len(prompt)
            )
            start = max(len(prompt) - self.max_tokens, 0)
        state.written = state.learned = len(state.text)
        state.own.learn(state.text, start)
        state.place = self._place(state, state.text, state.streak)
        return state

    def _commit(self, state: SuccessorsState, tokens: list[int]) -> None:
        if not tokens:
            return
        last = state.place
        exact = last if state.learned == len(state.text) else None
        state.text += tokens
        if len(tokens) > 1 or len(state.text) - state.learned >= self.together:
            self._learn(state, exact)
        else:
            state.place = self._place(state, state.text, last.streak_after(tokens[0]))
            if state.place.best is not None and state.place.best.chance >= _LIKELY:
                self._learn(state, exact)
        if self.shared and not state.waiting:
            state.waiting = True
            self._waiting.append(state)

    def _learn(self, state: SuccessorsState, place: Place | None = None) -> None:
        """Learn the tokens that were committed since the last call, and look up the end; `place` is
        that of the first of them, if it was looked up.
        """
        text = state.text
        for end in range(state.learned, len(text)):
            before = text[max(end - self._longest, 0) : end]
            place = place or self._place(state, before, state.streak)
            state.chances.note(place.found, place.best, text[end])
            state.own.count(place.contexts, text[end])
            state.streak = place.streak_after(text[end])
            place = None
        state.learned = len(text)
        state.place = self._place(state, text, state.streak)

    def _share_answers(self) -> None:
        """Learn what was written since the last request began, so that the shared memory does not
        repeat what the memory of a running request knows.
        """
        for state in self._waiting:
            self.memory.learn(state.text[state.written :], 1)
            state.written, state.waiting = len(state.text), False
        self._waiting.clear()

    def _draft(self, state: SuccessorsState, tail: IntArray, budget: Budget) -> Draft:
        most = min(budget.share(self.name), budget.nodes, _LONGEST)
        worth = budget.worth or Worth(floors=(self.least,) * most)
        floors = worth.floors[:most]
        place, last = state.place, state.text[-self._longest :]
        if len(tail):
            last += tail.tolist()
            place = self._place(state, last, place.streak + len(tail))
        if place.best is None or place.best.chance < _needed(floors, worth.least):
            return EMPTY_DRAFT
        tokens = self._chain(state, place, last, floors, max(worth.least, 0.0))
        return chain(tokens, state.ends, self.name, origin=self.name)

    def _chain(
        self,
        state: SuccessorsState,
        place: Place,
        last: list[int],
        floors: Sequence[float],
        least: float,
    ) -> list[int]:
        """Return the chain with the largest gain from `place` on, after the tokens `last`."""
        streak, start, lowest = place.streak, len(last), min(floors, default=1.0)
        kept, reach, gain, most = start, 1.0, 0.0, least
        for floor in floors:
            if len(last) > start:
                place = self._place(state, last, streak + len(last) - start)
            best = place.best
            if best is None or (reach := reach * best.chance) < lowest:
                break
            gain += reach - floor
            last.append(best.token)
            if gain >= most:
                kept, most = len(last), gain
        return last[start:kept]

    def _place(self, state: SuccessorsState, text: Sequence[int], streak: int) -> Place:
        """Look up the end of `text`, after `streak` predicted tokens."""
        keys = contexts(text, self._longest)
        found = state.own.find(keys)
        if self.shared:
            first = self.own * CLASSES
            found += [(token, first + kind) for token, kind in self.memory.find(keys)]
        return Place(keys, found, state.chances.best(found, streak), streak)


def _needed(floors: Sequence[float], least: float) -> float:
    """Return the chance of a first token below which no chain pays, if chances fall as usual."""
    needed, costs, tokens, reach = 1.0, least, 0.0, 1.0
    for floor in floors:
        costs += floor
        tokens += reach
        reach *= _GOES_ON
        needed = min(needed, costs / tokens)
    return needed


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
