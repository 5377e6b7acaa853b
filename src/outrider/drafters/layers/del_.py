"""DEL: the target drafts with its first layers; how many, and how long, is chosen every round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import LogitsError, StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray, Verified, as_ids
from outrider.drafters.given import Given
from outrider.drafters.layers.exit_rates import ExitRates, Floats
from outrider.drafters.layers.layer_subset import (
    LayerSubsetDrafter,
    LayerSubsetState,
    full_cache,
    layer_subset_priors,
)
from outrider.drafters.method import DrafterMethod
from outrider.protocols import Drafter, DrafterState, Request
from outrider.protocols.method import Paper, Value
from outrider.sampling import Sampler


@dataclass(slots=True)
class ExitState(LayerSubsetState):
    """One request. `rounds`: drafts asked for. `watched`: the target's next forward shows what its
    layers hand on."""

    rounds: int = 0
    watched: bool = False


_RANGES: Mapping[str, Range] = {
    "longest": AT_LEAST_ONE,
    "every": AT_LEAST_ONE,
    "most_rows": AT_LEAST_ONE,
    "head": Range(0.0, hint="Give at least 0"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicExit(LayerSubsetDrafter):
    """DEL (Entezari Zarch et al. 2025, arXiv 2504.05598): drafts with layers 1 to E of the target,
    d tokens, where E and d have the most expected tokens per layer (`exit_rates.py`).

    What each layer *would* have drafted ("shadow tokens") comes from the target's own forwards: the
    states that its layers hand on go through final norm and head. Only rows with the right text
    before them count: the one after the text and those of accepted tokens. That head is the cost:
    one row for each layer and token. So it is paid every `every`-th round, for at most `most_rows`
    tokens, and of models with vocabularies above `wide_vocabulary` for every other layer. For
    sampled text the shadow token is the choice of the request's own sampler, as in a draft.

    Made for models trained with early exits (LayerSkip); others rarely have an early layer worth
    leaving at, and then nothing is drafted. On models whose upper layers were padded to cost time
    and do nothing, an early exit is the whole model and the figures are far too good: they say
    nothing of real models and are not to be quoted.

    The paper verifies only layers E + 1 to L; here the verification reads all layers again, which
    is what its formula charges as well.

    Attributes:
        confidence: where a draft ends; None takes the threshold of the exit: halfway between how
            sure it was when right and when wrong.
        longest: most tokens of a draft (d_max), within the budget.
        every: statistics are taken every so many rounds; 1 is the paper.
        most_rows: tokens of a round that are looked at.
        wide_vocabulary: see above.
        head: what the head costs, in layers; 0 is the paper. About vocabulary * hidden size over
            the parameters of a layer.
        rates: the statistics; shared by all requests, and kept across them. None starts anew.

    Raises:
        StrategyError: a model that can not leave layers out, or shows no hidden states.
        OptionError: a number outside its range.
    """

    name: str = "del"
    longest: int = 16
    every: int = 4
    most_rows: int = 8
    wide_vocabulary: int = 50_000
    head: float = 0.0
    rates: ExitRates = None  # pyright: ignore[reportAssignmentType]
    exits: tuple[LayerSet, ...] = field(init=False, repr=False)

    learns = True
    """Its exits depend on the texts of other requests."""

    def __post_init__(self) -> None:
        LayerSubsetDrafter.__post_init__(self)
        check_ranges(self, _RANGES)
        if self.rates is None:
            wide = self.model.info.vocab_size > self.wide_vocabulary
            rates = ExitRates(self.layered.num_layers, step=2 if wide else 1)
            object.__setattr__(self, "rates", rates)
        count = self.layered.num_layers
        exits = tuple(LayerSet.exit_at(count, depth) for depth in range(1, count))
        object.__setattr__(self, "exits", exits)
        self.part(exits[0])
        if self.model.hidden_states is None:
            raise StrategyError(
                f"{self.model.info.name} shows no hidden states, by which {self.name!r} decides",
                hint="Use a model that has `hidden_states`, or drafter 'swift'",
            )

    def _state(self, request: Request) -> ExitState:
        state = LayerSubsetDrafter._state(self, request)
        return ExitState(request, state.cache)

    def _propose(
        self, states: Sequence[DrafterState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        drafts = [EMPTY_DRAFT] * len(states)
        groups: dict[tuple[int, float], list[int]] = {}
        lengths: list[int] = []
        for i, (state, budget) in enumerate(zip(states, budgets, strict=True)):
            if state.rounds % self.every == 0:  # stays on until the target has read
                self._watch(state, True)
            state.rounds += 1
            chosen = self.rates.best(min(self.wanted(budget), self.longest), self.head)
            lengths.append(chosen.length if chosen else 0)
            if chosen is not None:
                groups.setdefault((chosen.depth, chosen.confidence), []).append(i)
        for (depth, confidence), members in groups.items():
            written = self.draft(
                self.exits[depth - 1],
                [states[i] for i in members],
                [tails[i] for i in members],
                [budgets[i].clipped(lengths[i]) for i in members],
                confidence if self.confidence is None else self.confidence,
            )
            for i, draft in zip(members, written, strict=True):
                drafts[i] = draft
        return drafts

    def observe(self, states: Sequence[DrafterState], verified: Sequence[Verified]) -> None:
        """Learn what each layer would have drafted, where the target's rows were watched."""
        for state, seen in zip(states, verified, strict=True):
            if seen.tier == "target" and state.watched:
                self._watch(state, False)
                if seen.rows.states is not None and seen.verdict.emitted:
                    self._learn(state, seen)

    @property
    def watched(self) -> range:
        """Hidden states that an exit could read out: of all layers but the last, or every other."""
        return range(1, self.layered.num_layers, self.rates.step)

    def _watch(self, state: ExitState, on: bool) -> None:
        if state.watched != on:
            state.watched = on
            assert self.model.hidden_states is not None  # checked when this was made
            self.model.hidden_states.watch(full_cache(state), self.watched if on else None)

    def _learn(self, state: ExitState, seen: Verified) -> None:
        """Compare shadow tokens with those that came, on rows with the right text before them."""
        tokens = seen.verdict.emitted[: self.most_rows]
        rows = [parent + 1 for parent in (-1, *seen.verdict.path)][: len(tokens)]
        assert seen.rows.states is not None
        states = seen.rows.states[:, rows]
        logits = self.layered.read_out(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        scores = logits.float().cpu().numpy()  # numpy: no threads are woken for so little
        sampler, before = state.request.sampler, state.written(seen.tail)
        if sampler.params.temperature == 0 and sampler.plain(len(before)):
            shadow = scores.argmax(axis=-1)
        else:
            shadow = _choices(sampler, logits, before, tokens)
        self.rates.note(shadow == as_ids(tokens), _sureness(scores))


def _choices(
    sampler: Sampler, logits: Tensor, before: Sequence[int], tokens: Sequence[int]
) -> IntArray:
    """`[exits, rows]`: what the sampler makes of each row; -1 where it can not tell."""
    chosen = np.full(logits.shape[:2], -1, dtype=np.int64)
    for row in range(logits.shape[1]):
        generated = [*before, *tokens[:row]]
        for place in range(logits.shape[0]):
            try:
                chosen[place, row] = sampler.choose(logits[place, row], generated)
            except LogitsError:
                continue
    return chosen


def _sureness(logits: NDArray[np.floating]) -> Floats:
    """`[exits, rows]`: the probability of each row's best token at temperature 1."""
    below = logits - logits.max(axis=-1, keepdims=True)
    return np.nan_to_num(1.0 / np.exp(below).sum(axis=-1, dtype=np.float64))


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> DynamicExit:
    return DynamicExit(model=given.target, **options)  # pyright: ignore[reportArgumentType]


METHOD = DrafterMethod(
    name="del",
    cls=DynamicExit,
    summary="the first layers of the target, as many and as far as pays",
    paper=Paper("DEL", "2504.05598"),
    needs="a target trained for early exits, to be of use",
    memory="none: weights and cache are the target's",
    make=_make,
    priors=layer_subset_priors,
    layered=True,
)
