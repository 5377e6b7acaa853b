"""Chains of usual followers, each with a measured chance; the draft ends where one does not pay.

The follower of the last 1 to 6 tokens in the text, and of the last 1 to 3 tokens in earlier
answers, are the candidates for the next token. Their chances are not guessed: every token that is
emitted shows, for all candidates of its place, which were right, drafted or not. Rates are counted
by kind of candidate, and the candidate with the largest chance is drafted. llama.cpp's lookup
example and ANPD (Ou et al., arXiv 2404.08698) draft from such tables too, with fixed thresholds.

If the text follows a grammar, candidates that it forbids are left out. Where it allows only one
token, the chain goes on behind that one: such tokens are written without a draft, so that they gain
nothing themselves, but a draft that ends before them would not reach what follows.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.errors import CheckpointError, GrammarError
from outrider.core.types import EMPTY_DRAFT, GRAMMAR, Budget, Draft, IntArray, Worth
from outrider.drafters.copying.copies import Copier, chain, goes_on
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.memories.chances import Best, Chances
from outrider.memories.followers import CLASSES, Followers, Prediction, contexts
from outrider.policies import Source
from outrider.protocols import Request
from outrider.protocols.method import Paper
from outrider.sampling.walk import Walk

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
        forced: the token that a grammar forces here; nothing is predicted then.
    """

    contexts: list[Hashable]
    found: list[Prediction]
    best: Best | None
    streak: int
    forced: int | None = None

    def streak_after(self, token: int) -> int:
        """Return the streak after `token` is written here."""
        if self.forced is not None:
            return self.streak
        return self.streak + 1 if self.found and self.found[0][0] == token else 0


@dataclass(slots=True)
class SuccessorsState:
    """The state of one request.

    Attributes:
        ends: tokens that end the answer.
        chances: those of texts that are sampled as this one is.
        text: the prompt and the committed output.
        own: followers in this text.
        begin: length of the prompt.
        walk: the grammar of the answer, or None; it moves by itself.
        given: length of the text up to which the shared memory has learned it.
        waiting: whether the shared memory has still to learn a part of it.
        learned: length of the text up to which its own memory has learned it.
        streak: at `learned`, number of last tokens that the longest known context predicted.
        place: the end of the text.
    """

    ends: frozenset[int]
    chances: Chances
    text: list[int]
    own: Followers
    begin: int
    walk: Walk | None
    given: int
    waiting: bool = False
    learned: int = 0
    streak: int = 0
    place: Place = Place([], [], None, 0)

    def written(self, end: int) -> list[int]:
        """Return the answer up to an index of the text; it is needed with a grammar only."""
        return [] if self.walk is None else self.text[self.begin : end]


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
    chances: dict[tuple[bool, bool, bool], Chances] = field(init=False, repr=False, compare=False)
    _waiting: list[SuccessorsState] = field(init=False, repr=False, compare=False)
    _newest: list[tuple[tuple[int, ...], Followers | None]] = field(
        init=False, repr=False, compare=False
    )
    _longest: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        AT_LEAST_ONE.check("own", self.own)
        AT_LEAST_ONE.check("max_tokens", self.max_tokens)
        AT_LEAST_ONE.check("together", self.together)
        Range(0, hint="Give 0 or more tokens").check("shared", self.shared)
        _LEAST.check("least", self.least)
        chances = {
            (sampled, constrained, edited): Chances.of(self.own, self.shared)
            for sampled in (False, True)
            for constrained in (False, True)
            for edited in (False, True)
        }
        object.__setattr__(self, "memory", Followers(max(self.shared, 1), _SHARED))
        object.__setattr__(self, "chances", chances)
        object.__setattr__(self, "_waiting", [])
        object.__setattr__(self, "_newest", [])
        object.__setattr__(self, "_longest", max(self.own, self.shared))

    def remember(self, file: Path, vocab: int) -> None:
        """Begin with what followed which tokens in earlier answers, as a file states it.

        Args:
            file: safetensors with the arrays of `Followers.saved`.
            vocab: number of tokens of the target.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            saved = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        self.memory.restore(saved, vocab)

    def _begin(self, request: Request, old: SuccessorsState | None) -> SuccessorsState:
        self._share_answers()
        prompt, sampler = request.source_ids, request.sampler
        walk = sampler.walk
        same = isinstance(old, SuccessorsState) and old.own.longest == self.own
        sampled, constrained = sampler.params.temperature > 0.0, walk is not None
        chances = self.chances[sampled, constrained, sampler.reads_text]
        if same and old and goes_on(prompt, old.text):
            state, start = old, len(old.text)
            self._learn(state)
            state.text += prompt[start:]
            state.ends, state.chances = request.sampler.end_ids, chances
        else:
            own, size = self._of_prompt(prompt), len(prompt)
            state = SuccessorsState(sampler.end_ids, chances, list(prompt), own, size, None, size)
            start = len(prompt)
        state.begin, state.walk = len(prompt), walk and walk.fork()
        state.given = state.learned = len(state.text)
        state.own.learn(state.text, start)
        state.place = self._end(state, state.streak)
        return state

    def _of_prompt(self, prompt: Sequence[int]) -> Followers:
        """Return the followers in a prompt. Those of a prompt that has begun twice are kept, since
        searches write many short texts after one prompt."""
        again = bool(self._newest) and self._newest[0][0] == tuple(prompt)
        if again and (kept := self._newest[0][1]) is not None:
            return kept.copy()
        own = Followers(self.own, 2 * self.max_tokens)
        own.learn(prompt, max(len(prompt) - self.max_tokens, 0))
        self._newest[:] = [(tuple(prompt), own.copy() if again else None)]
        return own

    def _commit(self, state: SuccessorsState, tokens: list[int]) -> None:
        if not tokens:
            return
        last = state.place
        exact = last if state.learned == len(state.text) else None
        state.text += tokens
        if len(tokens) > 1 or len(state.text) - state.learned >= self.together:
            self._learn(state, exact)
        else:
            state.place = self._end(state, last.streak_after(tokens[0]))
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
            place = place or self._place(state, before, state.streak, state.written(end))
            if place.forced is None:
                state.chances.note(place.found, place.best, text[end])
            state.own.count(place.contexts, text[end])
            state.streak = place.streak_after(text[end])
            place = None
        state.learned = len(text)
        state.place = self._end(state, state.streak)

    def _share_answers(self) -> None:
        """Learn what was written since the last request began, so that the shared memory does not
        repeat what the memory of a running request knows.
        """
        for state in self._waiting:
            self.memory.learn(state.text[state.given :], 1)
            state.given, state.waiting = len(state.text), False
        self._waiting.clear()

    def _draft(self, state: SuccessorsState, tail: IntArray, budget: Budget) -> Draft:
        most = min(budget.share(self.name), budget.nodes, _LONGEST)
        worth = budget.worth or Worth(floors=(self.least,) * most)
        floors = worth.floors[:most]
        place, last = state.place, state.text[-self._longest :]
        written = state.written(len(state.text))
        if len(tail):
            last += tail.tolist()
            written += tail.tolist()
            place = self._place(state, last, place.streak + len(tail), written)
        if place.forced is None and (
            place.best is None or place.best.chance < _needed(floors, worth.least)
        ):
            return EMPTY_DRAFT
        tokens, forced = self._chain(state, place, last, floors, max(worth.least, 0.0), written)
        draft = chain(tokens, state.ends, self.name, origin=self.name)
        if not forced:
            return draft
        sources = (GRAMMAR if i in forced else self.name for i in range(len(draft)))
        return replace(draft, sources=tuple(sources))

    def _chain(
        self,
        state: SuccessorsState,
        place: Place,
        last: list[int],
        floors: Sequence[float],
        least: float,
        written: list[int],
    ) -> tuple[list[int], set[int]]:
        """Return the chain with the largest gain from `place` on, after the tokens `last` and the
        answer `written`, and which of its tokens are forced."""
        streak, start, lowest = place.streak, len(last), min(floors, default=1.0)
        kept, reach, gain, most = start, 1.0, 0.0, least
        forced: set[int] = set()
        for floor in floors:
            size = len(last) - start
            if size:
                place = self._place(state, last, streak + size, written + last[start:])
            if place.forced is not None:
                forced.add(size)
                gain -= floor
                last.append(place.forced)
                continue
            best = place.best
            if best is None or (reach := reach * best.chance) < lowest:
                break
            gain += reach - floor
            last.append(best.token)
            if gain >= most:
                kept, most = len(last), gain
        return last[start:kept], {at for at in forced if at < kept - start}

    def _end(self, state: SuccessorsState, streak: int) -> Place:
        """Look up the end of the text, after `streak` predicted tokens."""
        return self._place(state, state.text, streak, state.written(len(state.text)))

    def _place(
        self,
        state: SuccessorsState,
        text: Sequence[int],
        streak: int,
        written: Sequence[int] = (),
    ) -> Place:
        """Look up the end of `text`, after `streak` predicted tokens; with a grammar, `written` is
        the whole answer."""
        keys = contexts(text, self._longest)
        found = state.own.find(keys)
        if self.shared:
            first = self.own * CLASSES
            found += [(token, first + kind) for token, kind in self.memory.find(keys)]
        forced = None
        if state.walk is not None:
            try:
                forced = next(iter(state.walk.forced(written)), None)
                legal = [] if forced is not None else found
                found = _legal(legal, state.walk, written, state.ends)
            except GrammarError:  # the target raises it again, if the text comes here
                found = []
        return Place(keys, found, state.chances.best(found, streak), streak, forced)


def _legal(
    found: Sequence[Prediction], walk: Walk, written: Sequence[int], ends: frozenset[int]
) -> list[Prediction]:
    """Return the predictions that a grammar allows."""
    tokens = {token for token, _ in found}
    fits = {
        token
        for token in tokens
        if (walk.accepts(written) if token in ends else walk.allows(written, token))
    }
    return list(found) if len(fits) == len(tokens) else [p for p in found if p[0] in fits]


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
