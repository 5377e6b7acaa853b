"""Chains of a head that end where a further token does not pay, shared by the drafters of heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import OptionError
from outrider.core.tree import chain_parents
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, as_ids
from outrider.drafters.given import Given
from outrider.drafters.neural.asks import Ask, Asks
from outrider.drafters.neural.model import ModelDrafter
from outrider.drafters.neural.model_state import ModelState
from outrider.drafters.neural.reading import read_ahead, timed
from outrider.kernels.layout import CHANCES
from outrider.models.caches.attaching import attach
from outrider.models.heads.config import HeadKind
from outrider.models.heads.model import HeadModel
from outrider.models.heads.native import NativeHead
from outrider.policies import Source
from outrider.protocols import NO_NEEDS, ChainRequest
from outrider.protocols.method import Value
from outrider.sampling import Sampler, SamplingParams

TextKind = tuple[bool, bool]
"""Whether a text is sampled, and whether penalties or processors change the scores."""

D = TypeVar("D", bound="HeadChain")

_FIRST, _NEXT = 0.45, 0.6
"""Prior chances of the first token of a draft, and of each later one after a right one."""
_LONGEST = 8
_BELIEF, _FORGET = 6.0, 512.0
"""Weight of the prior of a class, in tested tokens, and their number at which counts are halved."""
_SURE, _UNSURE = 0.9, 0.1
"""Prior chances of tokens with the probabilities 1 and 0."""


class Rates:
    """How often tokens of a head were right, by the probability that the head gave them.

    Attributes:
        chances: `[CHANCES]` chance that a token is right, by its probability in equal classes.
    """

    def __init__(self) -> None:
        middle = (np.arange(CHANCES) + 0.5) / CHANCES
        self._trials = np.full(CHANCES, _BELIEF)
        self._hits = _BELIEF * (_UNSURE + (_SURE - _UNSURE) * middle)
        self.chances: NDArray[np.float32] = (self._hits / self._trials).astype(np.float32)

    def note(self, place: int, right: bool) -> None:
        """Count a token of a class."""
        if self._trials[place] >= _FORGET:
            self._trials[place] *= 0.5
            self._hits[place] *= 0.5
        self._trials[place] += 1.0
        self._hits[place] += right
        self.chances[place] = self._hits[place] / self._trials[place]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadChain(ModelDrafter):
    """Drafts chains of a head.

    Where the policy states what a further row must promise (`Budget.worth`), a chain is as long as
    it pays: the chance of each token follows from the probability that the head gives it and from
    how often such tokens were right, and the draft with the largest sum of chances less costs is
    proposed. Tokens that were drafted and not proposed are counted as well. Otherwise the
    length is that of the budget. In texts in which the head costs more than it gains (`asks.py`),
    it is not run, except for trials.

    Attributes:
        seconds: measured seconds of a token of a draft.
        rates: by kind of text.
        asks: by kind of text.
    """

    seconds: float = 0.0
    rates: dict[TextKind, Rates] = field(init=False, repr=False, compare=False)
    asks: dict[TextKind, Asks] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        kinds = [(sampled, edited) for sampled in (False, True) for edited in (False, True)]
        object.__setattr__(self, "rates", {kind: Rates() for kind in kinds})
        object.__setattr__(self, "asks", {kind: Asks() for kind in kinds})

    def propose(
        self, states: Sequence[ModelState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one chain per request, as deep as it pays, or as its budget allows."""
        model = self.model
        selects = isinstance(model, NativeHead) and self.needs == NO_NEEDS
        asked = [budget for budget in budgets if budget.share(self.name)]
        if not selects or any(budget.worth is None for budget in asked) or any(map(len, tails)):
            return ModelDrafter.propose(self, states, tails, budgets)
        if any(state.masks for state in states):
            return ModelDrafter.propose(self, states, tails, budgets)
        assert isinstance(model, NativeHead)
        drafts = [EMPTY_DRAFT] * len(states)
        paying = [
            (i, worth, asks)
            for i, (state, budget) in enumerate(zip(states, budgets, strict=True))
            if budget.share(self.name) and (worth := budget.worth) is not None
            if (asks := self.asks[kind_of(state)]).pays()
        ]
        chosen = [i for i, _, _ in paying]
        reading = read_ahead(model, [states[i] for i in chosen], [budgets[i] for i in chosen])
        for i, worth, asks in paying:
            begun = perf_counter()
            drafts[i] = self._selected(model, states[i], tails[i], budgets[i])
            spent = asks.seconds(perf_counter() - begun) + reading / len(paying)
            floors = worth.floors[: len(drafts[i])]
            states[i].ask = Ask(worth.rate * spent + sum(floors), len(drafts[i]))
        return timed(drafts, reading)

    def _selected(
        self, model: NativeHead, state: ModelState, tail: IntArray, budget: Budget
    ) -> Draft:
        worth, depth = budget.worth, self._depth(state, tail, budget)
        if worth is None or depth < 1 or not worth.floors:
            return EMPTY_DRAFT
        floors = worth.floors[:depth]
        sampler = _plain(state.request.sampler, len(state.request.output))
        segment, _ = attach(state.cache, tail, EMPTY_DRAFT)
        chain = ChainRequest(
            segment=segment,
            sampler=sampler,
            generated=state.written(tail),
            depth=len(floors),
        )
        rates = self.rates[kind_of(state)]
        # a further token must be expected to pay for its row and for the step that drafts it
        least = (min(floors) + worth.rate * self.seconds) / _NEXT
        tokens, places = model.draft(chain, rates.chances, least)
        state.tested = list(zip(tokens.tolist(), places.tolist(), strict=True))
        state.counters.forwards += len(tokens)
        kept = paying(
            rates.chances[places], floors, 0.0 if worth.beside == self.name else worth.least
        )
        legal = state.legal(tokens[:kept].tolist(), tail)
        state.counters.drafted += len(legal)
        if not legal:
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(legal),
            parents=chain_parents(len(legal)),
            sources=(self.name,) * len(legal),
            draw=Draw.IID,
        )

    def commit(self, states: Sequence[ModelState], tokens: Sequence[IntArray]) -> None:
        """Learn which drafted tokens were right; the emitted tokens become pending."""
        for state, emitted in zip(states, tokens, strict=True):
            rates, kept = self.rates[kind_of(state)], 0
            for (token, place), right in zip(state.tested, emitted.tolist(), strict=False):
                rates.note(place, token == right)
                if token != right:
                    break
                kept += 1
            if len(emitted):
                state.tested = []
                self._judge(state, kept)
        ModelDrafter.commit(self, states, tokens)

    def _judge(self, state: ModelState, kept: int) -> None:
        """Count what the last ask has gained, of which `kept` tokens were right."""
        if (ask := state.ask) is not None:
            self.asks[kind_of(state)].note(min(kept, ask.proposed) - ask.cost)
            state.ask = None


def kind_of(state: ModelState) -> TextKind:
    """Return the kind of text of a request."""
    sampler = state.request.sampler
    return sampler.params.temperature > 0.0, sampler.reads_text


def _plain(sampler: Sampler, index: int) -> Sampler:
    """Return the sampler without what the kernel cannot compute: penalties, processors, bias. Such
    drafts are right less often, and take a fraction of the time."""
    if (free := sampler.unrestricted).quick(index):
        return free
    p = sampler.params
    params = SamplingParams(
        temperature=p.temperature,
        top_k=p.top_k,
        top_p=p.top_p,
        min_p=p.min_p,
        banned_tokens=p.banned_tokens,
        seed=sampler.seed,
    )
    return Sampler(params, end_ids=tuple(sampler.end_ids), sample=sampler.sample)


def paying(chances: NDArray[np.float32], floors: Sequence[float], least: float) -> int:
    """Return the length of the beginning of a chain with the largest gain, at least `least`."""
    reach, gain, most, kept = 1.0, 0.0, max(least, 0.0), 0
    for place, (chance, floor) in enumerate(zip(chances.tolist(), floors, strict=False)):
        reach *= chance
        gain += reach - floor
        if gain >= most:
            kept, most = place + 1, gain
    return kept


def head_of(given: Given, name: str, kind: HeadKind) -> HeadModel:
    """Return the head among the given models.

    Args:
        given: the inputs for building drafters.
        name: name of the drafter, for the message.
        kind: the kind of head that it runs.

    Raises:
        OptionError: there is none of this kind.
    """
    model = given.below[-1] if given.below else None
    if isinstance(model, HeadModel) and model.config.kind is kind:
        return model
    found = "no draft model is given" if model is None else f"{model.info.name} is not one"
    raise OptionError(
        f"drafter {name!r} needs a head of kind {kind}, and {found}",
        hint="Give draft=FOLDER with such a head; see docs/heads.md",
    )


def make_chain(
    cls: type[D], name: str, kind: HeadKind, given: Given, options: Mapping[str, Value]
) -> D:
    """Build a drafter that drafts chains with the head."""
    model = head_of(given, name, kind)
    seconds = given.draft_seconds(model) if given.costs is not None else 0.0
    return cls(model=model, **{"seconds": seconds} | dict(options))  # pyright: ignore[reportArgumentType]


def chain_priors(drafter: ModelDrafter, given: Given) -> tuple[Source, ...]:
    """Return the expected results of a head's chains before the first measurement."""
    each = given.draft_seconds(drafter.model)
    return (
        Source(
            name=drafter.name,
            accept=_FIRST,
            goes_on=_NEXT,
            longest=_LONGEST,
            opportunistic=True,
            selects=isinstance(drafter.model, NativeHead),
            waits=isinstance(drafter.model, NativeHead),
            seconds=each,
            fixed=2 * each + given.measured.overhead,  # rows of the tokens of the last round
        ),
    )
