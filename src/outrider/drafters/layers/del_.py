"""DEL: the target drafts with its first layers; exit layer and length are chosen every round."""

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
    """One request. `rounds`: number of proposals so far. `watched`: whether the target's next
    forward returns the outputs of its layers."""

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
    """DEL (Entezari Zarch et al. 2025, arXiv 2504.05598): drafts d tokens with layers 1 to E of the
    target, where E and d maximise the expected tokens per layer (`exit_rates.py`).

    The tokens that each layer *would* have drafted ("shadow tokens") come from the target's own
    forwards: the outputs of its layers are passed through final norm and head. Only rows with the
    right preceding text count: the row after the text and the rows of accepted tokens. The head is
    the cost: one row per layer and token. To limit it, statistics are taken every `every`-th round
    only, for at most `most_rows` tokens, and for vocabularies above `wide_vocabulary` only for
    every other layer. For sampled text, the shadow token is the choice of the request's own
    sampler, as in a draft.

    The method is made for models trained with early exits (LayerSkip). Other models rarely have a
    useful early exit; nothing is drafted then. On models whose upper layers were padded to cost
    time but have no effect, an early exit equals the whole model, and the measured speedups are far
    too high: they are not valid for real models and must not be quoted.

    The paper verifies only with layers E + 1 to L; here the verification runs all layers again,
    which the paper's formula also assumes.

    Attributes:
        confidence: probability below which a draft ends; None uses the threshold of the exit:
            halfway between its mean confidence for right tokens and for wrong tokens.
        longest: largest number of tokens of a draft (d_max), within the budget.
        every: statistics are taken every this many rounds; 1 in the paper.
        most_rows: number of tokens of a round that are used.
        wide_vocabulary: see above.
        head: cost of the head, in layers; 0 in the paper. About vocabulary * hidden size over the
            parameters of a layer.
        rates: the statistics, shared by all requests and kept across them. None creates new ones.

    Raises:
        StrategyError: a model that cannot leave out layers, or does not return hidden states.
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
    """The chosen exit depends on the texts of other requests."""

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
                f"{self.name!r} needs hidden states, which {self.model.info.name} does not return",
                hint="Use a model with the capability `hidden_states`, or drafter 'swift'",
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
            if state.rounds % self.every == 0:  # stays on until the target's next forward
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
        """Learn which token each layer would have drafted, if the target's layers were watched."""
        for state, seen in zip(states, verified, strict=True):
            if seen.tier == "target" and state.watched:
                self._watch(state, False)
                if seen.rows.states is not None and seen.verdict.emitted:
                    self._learn(state, seen)

    @property
    def watched(self) -> range:
        """The hidden states that can be used as exits: of all layers but the last, or of every
        other one."""
        return range(1, self.layered.num_layers, self.rates.step)

    def _watch(self, state: ExitState, on: bool) -> None:
        if state.watched != on:
            state.watched = on
            assert self.model.hidden_states is not None  # the constructor has checked it
            self.model.hidden_states.watch(full_cache(state), self.watched if on else None)

    def _learn(self, state: ExitState, seen: Verified) -> None:
        """Compare shadow tokens with the actual tokens, on rows with the right preceding text."""
        tokens = seen.verdict.emitted[: self.most_rows]
        rows = [parent + 1 for parent in (-1, *seen.verdict.path)][: len(tokens)]
        assert seen.rows.states is not None
        states = seen.rows.states[:, rows]
        logits = self.layered.read_out(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        scores = logits.float().cpu().numpy()  # numpy starts no threads for small arrays
        sampler, before = state.request.sampler, state.written(seen.tail)
        if sampler.params.temperature == 0 and sampler.plain(len(before)):
            shadow = scores.argmax(axis=-1)
        else:
            shadow = _choices(sampler, logits, before, tokens)
        self.rates.note(shadow == as_ids(tokens), _sureness(scores))


def _choices(
    sampler: Sampler, logits: Tensor, before: Sequence[int], tokens: Sequence[int]
) -> IntArray:
    """Return `[exits, rows]`: the sampler's choice for each row; -1 if it cannot choose."""
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
    """Return `[exits, rows]`: the probability of each row's best token at temperature 1."""
    below = logits - logits.max(axis=-1, keepdims=True)
    return np.nan_to_num(1.0 / np.exp(below).sum(axis=-1, dtype=np.float64))


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> DynamicExit:
    return DynamicExit(model=given.target, **options)  # pyright: ignore[reportArgumentType]


METHOD = DrafterMethod(
    name="del",
    cls=DynamicExit,
    summary="the first layers of the target; depth and length follow the measured acceptance",
    paper=Paper("DEL", "2504.05598"),
    needs="a target trained for early exits, to be of use",
    memory="none: weights and cache are the target's",
    make=_make,
    priors=layer_subset_priors,
    layered=True,
)
