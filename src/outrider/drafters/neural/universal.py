"""A draft model with another tokenizer: its drafts are translated as texts.

Universal assisted generation (Timor et al. 2025, arXiv 2502.05202, "exact match" of texts; in
`transformers` `generate(assistant_model, tokenizer, assistant_tokenizer)`). The draft model keeps
its own encoding of the text. What the target has written since is decoded and encoded again from a
few tokens before the seam; the rows of the draft model stay up to the first token that differs.
It drafts greedily, and the text of its tokens is encoded with the target's tokenizer. Drafts are
exact tokens of the target, so that every rule for deterministic drafts judges them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from outrider.core.checks import AT_LEAST_ONE
from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.tree import chain_parents
from outrider.core.types import (
    EMPTY_DRAFT,
    NO_IDS,
    Budget,
    Draft,
    Draw,
    IntArray,
    Prompt,
    Verified,
    as_ids,
)
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.model import ModelDrafter
from outrider.drafters.neural.model_state import AT_ONCE, ModelState
from outrider.drafters.neural.respelling import (
    following,
    respelled,
    whole_characters,
    written_since,
)
from outrider.models.caches.prefill import common_length
from outrider.models.wrappers.foreign import ForeignModel
from outrider.policies import Source
from outrider.protocols import Drafter, Needs, Request
from outrider.protocols.method import Paper, Value
from outrider.sampling import Sampler, SamplingParams

_MOST_PIECES = 4.0
"""Most tokens of the draft model for one token of the target."""

_LONGEST_CHARACTER = 4
"""Largest number of tokens that one character may have."""

_TRANSLATING = 5e-4
"""Seconds of a round for encoding and decoding, until they are measured."""


@dataclass(slots=True)
class UniversalState:
    """One request.

    Attributes:
        request: the request, in tokens of the target.
        inner: the draft model's side; its request is in the tokens of the draft model.
        ids: the text in tokens of the draft model, without `unread`.
        sure: how many of the first `ids` are also the first tokens of the cache.
        context: the last tokens of the target whose text is in `ids`.
        unread: tokens of the target whose text is not in `ids` yet.
        read: number of tokens of the target whose text is in `ids`.
    """

    request: Request
    inner: ModelState
    ids: list[int]
    sure: int
    context: list[int]
    unread: list[int] = field(default_factory=list[int])
    read: int = 0

    @property
    def pieces(self) -> float:
        """Tokens of the draft model for one token of the target, in the text so far."""
        return min(len(self.ids) / max(self.read, 1), _MOST_PIECES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Universal:
    """Drafts one chain per request with a model of another vocabulary.

    Attributes:
        model: the draft model with both tokenizers.
        lookbehind: how many tokens before a seam are encoded again, on either side.
        keep_last: whether the last token of a draft stays, although its text may go on.
        name: the source under which its tokens are counted.

    Drafting is switched off for a request whose text exceeds the window of the draft model, or for
    which it returns NaN.
    """

    model: ForeignModel
    lookbehind: int = 10
    keep_last: bool = False
    name: str = "universal"

    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True)
    learns = False

    def __post_init__(self) -> None:
        AT_LEAST_ONE.check("lookbehind", self.lookbehind)

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    @property
    def _inner(self) -> ModelDrafter:
        """What writes chains in the tokens of the draft model."""
        return ModelDrafter(model=self.model, name=self.name)

    def bind(self, needs: Needs, tier: int) -> "Universal":
        """A deterministic selection has probability one; there is nothing to prepare."""
        return self

    def begin(
        self,
        requests: Sequence[Request],
        previous: Sequence[UniversalState | None] | None = None,
    ) -> list[UniversalState]:
        """Read each prompt in the tokens of the draft model; equal prompts are read once."""
        prompts: dict[int, tuple[Prompt, list[int]]] = {}
        for request in requests:
            if id(request.prompt) not in prompts:
                prompts[id(request.prompt)] = self._own_prompt(request.prompt.token_ids)
        pairs = [prompts[id(request.prompt)] for request in requests]
        ends = self.model.info.end_ids
        sampler = Sampler(SamplingParams(temperature=0.0, seed=0), end_ids=ends)
        inside = [
            Request(prompt, sampler, in_parts=request.in_parts)
            for request, (prompt, _) in zip(requests, pairs, strict=True)
        ]
        old = [before and before.inner for before in previous or [None] * len(requests)]
        inner = self._inner.begin(inside, old)
        return [
            self._state(request, own, unread)
            for request, own, (_, unread) in zip(requests, inner, pairs, strict=True)
        ]

    def _state(self, request: Request, inner: ModelState, unread: list[int]) -> UniversalState:
        known = list(request.prompt.token_ids)
        known = known[: len(known) - len(unread)]
        ids = list(inner.request.prompt.token_ids)
        return UniversalState(
            request=request,
            inner=inner,
            ids=ids,
            sure=0 if inner.cache is None else min(len(inner.cache.text), len(ids)),
            context=known[-self.lookbehind :],
            unread=list(unread),
            read=len(known),
        )

    def _own_prompt(self, ids: Sequence[int]) -> tuple[Prompt, list[int]]:
        """Return a prompt in tokens of the draft model, and the last tokens of `ids` whose text is
        not in it, because it ends inside a character.

        Control tokens of the target's chat template are left out.
        """
        own, whole = self.model.own, len(ids)
        for cut in range(min(_LONGEST_CHARACTER, len(ids))):
            if written_since(self.model.target, (), ids[: len(ids) - cut]) is not None:
                whole = len(ids) - cut
                break
        found = own.encode(self.model.target.decode(ids[:whole]))
        if not found:  # every text needs one token that its first one follows
            found = (own.bos_id or own.eos_id or 0,)
        return Prompt(token_ids=found), list(ids[whole:])

    # -- rounds ---------------------------------------------------------------------------------

    def propose(
        self,
        states: Sequence[UniversalState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Return one chain per request; none while the text ends inside a character."""
        asked = [self._asked(*parts) for parts in zip(states, tails, budgets, strict=True)]
        if not any(asked):
            return [EMPTY_DRAFT] * len(states)
        inside = [
            Budget(depth=own, nodes=own, stop=budget.stop, reading=budget.reading)
            for own, budget in zip(map(self._pieces, states, asked), budgets, strict=True)
        ]
        own = self._inner.propose([s.inner for s in states], [NO_IDS] * len(states), inside)
        return [self._translated(*parts) for parts in zip(states, tails, asked, own, strict=True)]

    def _asked(self, state: UniversalState, tail: IntArray, budget: Budget) -> int:
        """Return how many tokens of the target are drafted, with the cache at the end of the text;
        0 where that is impossible."""
        asked = min(budget.share(self.name), budget.nodes)
        if asked <= 0 or state.inner.off is not None:
            return 0
        self._catch_up(state)
        after = [*state.unread, *tail.tolist()]
        text = written_since(self.model.target, state.context, after) if after else ""
        if text is None:
            return 0
        start, new = len(state.ids), list[int]()
        if after:
            start, new = respelled(self.model.own, state.ids, text, self.lookbehind)
        state.sure = min(state.sure, start)
        self._align(state, [*state.ids[state.sure : start], *new])
        state.sure = min(start, len(state.inner.cache.text))
        return asked

    def _pieces(self, state: UniversalState, asked: int) -> int:
        """Return how many tokens the draft model writes for `asked` tokens of the target: one more
        than the text so far suggests, since the last token of the target may be incomplete."""
        return ceil(asked * state.pieces) + 1 if asked else 0

    def _catch_up(self, state: UniversalState) -> None:
        """Add the text of unread tokens to `ids`, unless it ends inside a character."""
        if not state.unread:
            return
        text = written_since(self.model.target, state.context, state.unread)
        if text is None:
            return
        start, new = respelled(self.model.own, state.ids, text, self.lookbehind)
        state.ids[start:] = new
        state.sure = min(state.sure, start)
        state.read += len(state.unread)
        state.context = [*state.context, *state.unread][-self.lookbehind :]
        state.unread = []

    def _align(self, state: UniversalState, tokens: Sequence[int]) -> None:
        """Make the text of the cache, whose first `sure` tokens are right, go on with `tokens`.

        What is new is read by the next draft, or before it in parts where the request asks for
        that.
        """
        inner, wanted, start = state.inner, as_ids(tokens), state.sure
        cache = inner.cache
        common = start + common_length(cache.text[start:], wanted)
        if common == 0:  # not even the first token is the same
            prompt = Prompt(token_ids=(*tokens,))
            [inner.cache] = self.model.start([prompt], [cache])
            inner.ahead = NO_IDS
            return
        reading = len(inner.ahead) > 0
        if common < len(cache.text):
            cache.truncate(common)
        rest = wanted[common - start :]
        now = 0 if reading else len(rest)
        if state.request.in_parts:
            now = min(now, AT_ONCE)
        if now or not reading:
            cache.commit(rest[:now])
        inner.ahead = rest[now:] if now < len(rest) else NO_IDS

    def _translated(self, state: UniversalState, tail: IntArray, asked: int, own: Draft) -> Draft:
        """Return the draft in tokens of the target."""
        if not len(own) or not asked:
            return EMPTY_DRAFT
        tokens = own.tokens.tolist()
        ended = tokens[-1] in self.model.info.end_ids
        if ended:
            tokens.pop()
        text = self._text(state, tokens)
        found: list[int] = []
        if text:
            before = [*state.context, *state.unread, *tail.tolist()][-self.lookbehind :]
            found = following(self.model.target, before, text, self.lookbehind)
        if not (ended or self.keep_last or len(found) > asked):
            found = found[:-1]  # its text may go on
        if ended and (end := self._end(state)) is not None:
            found.append(end)
        return self._draft(found[:asked])

    def _text(self, state: UniversalState, tokens: list[int]) -> str:
        """Return the text of drafted tokens up to the first special one, in whole characters."""
        special = self.model.own.special_texts
        size = next((i for i, token in enumerate(tokens) if token in special), len(tokens))
        before = state.inner.cache.text[-self.lookbehind :]
        known = self.model.own.decode_all(before)
        whole = self.model.own.decode_all([*before, *tokens[:size]])
        return whole_characters(whole[len(known) :])

    def _end(self, state: UniversalState) -> int | None:
        """Return the target's end token of the request: that of its tokenizer if it is one."""
        ends = state.request.sampler.end_ids
        own = self.model.target.eos_id
        return own if own in ends else min(ends, default=None)

    def _draft(self, tokens: list[int]) -> Draft:
        known = as_ids(tokens)
        over = np.flatnonzero(known >= self.model.target_size)
        known = known[: over[0]] if len(over) else known
        if not len(known):
            return EMPTY_DRAFT
        size = len(known)
        return Draft(tokens=known, parents=chain_parents(size), sources=(self.name,) * size)

    def observe(self, states: Sequence[UniversalState], verified: Sequence[Verified]) -> None:
        """Do nothing: the model is fixed."""

    def commit(self, states: Sequence[UniversalState], tokens: Sequence[IntArray]) -> None:
        """Record emitted tokens; they are read when the next draft is asked for."""
        for state, emitted in zip(states, tokens, strict=True):
            state.unread += emitted.tolist()

    def counters(self, state: UniversalState) -> dict[str, Counters]:
        """Return the forwards and the drafted tokens of the draft model, in its own tokens."""
        return self._inner.counters(state.inner)


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Universal:
    model = given.draft_model("universal")
    if not isinstance(model, ForeignModel):
        raise OptionError(
            f"drafter 'universal' needs a draft model with a tokenizer, and {model.info.name} has "
            "none beside the target's",
            hint="Give draft=FOLDER with its own tokenizer files",
        )
    return Universal(model=model, **options)  # pyright: ignore[reportArgumentType]


def _priors(drafter: Universal, given: Given) -> tuple[Source, ...]:
    return (
        Source(
            name=drafter.name,
            seconds=given.draft_seconds(drafter.model),
            fixed=given.measured.overhead + _TRANSLATING,
            accept=given.chances.draft,
        ),
    )


METHOD = DrafterMethod(
    name="universal",
    cls=Universal,
    summary="a draft model with another tokenizer: its drafts are translated as texts",
    paper=Paper("universal assisted generation", "2502.05202"),
    needs="a draft model with its own tokenizer",
    memory="the draft model, its cache, and the text in its tokens",
    make=_make,
    priors=_priors,
    models=1,
)
