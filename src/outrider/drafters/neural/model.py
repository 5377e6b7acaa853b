"""A smaller language model that drafts chains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.errors import LogitsError
from outrider.core.tree import chain_parents
from outrider.core.types import (
    EMPTY_DRAFT,
    Budget,
    Draft,
    Draw,
    IntArray,
    Rows,
    Stop,
    Verified,
    as_ids,
)
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.model_state import (
    ModelState,
    commit_states,
    fits,
    head_chance,
    open_states,
    own_prompt,
    top_chance,
    unreadable,
    window,
)
from outrider.drafters.neural.reading import read_ahead, timed
from outrider.models.caches.attaching import attach
from outrider.policies import Source
from outrider.policies.confidence import BelowThreshold
from outrider.protocols import (
    NO_NEEDS,
    ChainRequest,
    Drafter,
    LanguageModel,
    Needs,
    Request,
    Segment,
)
from outrider.protocols.method import Paper, Value
from outrider.sampling import NOT_FINITE
from outrider.sampling.noise import Purpose

__all__ = ["ModelDrafter", "ModelState", "fits", "own_prompt", "unreadable"]


@dataclass(slots=True)
class Chain:
    """A chain under construction."""

    state: ModelState
    tail: IntArray
    depth: int
    stop: Stop | None = None
    tokens: list[int] = field(default_factory=list)
    distributions: list[Tensor | None] = field(default_factory=list)
    references: list[Tensor | None] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDrafter:
    """Drafts one chain per request, token by token, with one forward for all requests.

    Tokens are drawn with the same noise as the target's own choices (`noise.py`), so a good draft
    equals the target's choices. The model reads missed tokens as pending tokens of its cache.
    Drafting is switched off for a request whose text exceeds the model's window, or for which the
    model returns NaN.
    """

    model: LanguageModel
    name: str = "draft"
    needs: Needs = NO_NEEDS

    draw = Draw.IID
    gives = Needs(probs=True, reference=True)
    learns = False

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "ModelDrafter":
        """Configure drafts to carry distributions and references only if the rule above reads
        them."""
        return replace(self, needs=needs)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[ModelState | None] | None = None
    ) -> list[ModelState]:
        """Read each prompt that fits into the window; other requests get a state without a
        cache."""
        return open_states(self.model, requests, previous)

    def propose(
        self, states: Sequence[ModelState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one chain per request, as deep as its budget, its window and end tokens allow."""
        if not any(budget.share(self.name) for budget in budgets):
            return [EMPTY_DRAFT] * len(states)
        reading = read_ahead(self.model, states, budgets)
        chains = [
            Chain(state, tail, self._depth(state, tail, budget), budget.stop)
            for state, tail, budget in zip(states, tails, budgets, strict=True)
        ]
        active = [chain for chain in chains if chain.depth > 0]
        pairs = [attach(chain.state.cache, chain.tail, EMPTY_DRAFT) for chain in active]
        segments, want = [s for s, _ in pairs], [w for _, w in pairs]
        if self._write(active, segments):
            active = []
        while active:
            for chain, rows in zip(active, self.model.forward(segments, want), strict=True):
                chain.state.counters.forwards += 1
                self._extend(chain, rows)
            active = [chain for chain in active if not chain.done]
            segments = [Segment(c.state.cache, as_ids(c.tokens[-1:])) for c in active]
            want = [as_ids([c.state.cache.num_speculative]) for c in active]
        return timed([self._draft(chain) for chain in chains], reading)

    def _write(self, chains: Sequence[Chain], segments: Sequence[Segment]) -> bool:
        """Let the model generate the chains in one call; return false, with nothing done, if it
        cannot."""
        decoder = self.model.chain_decoder
        if decoder is None or self.needs != NO_NEEDS or not chains:
            return False
        if any(chain.state.masks for chain in chains):
            return False
        floors = {_floor(chain.stop) for chain in chains}
        floor = floors.pop()
        if floors or floor is None:  # the model supports one probability for all chains
            return False
        asked = [
            ChainRequest(
                segment=segment,
                sampler=chain.state.request.sampler.unrestricted,
                generated=chain.state.written(chain.tail),
                depth=chain.depth,
            )
            for chain, segment in zip(chains, segments, strict=True)
        ]
        written = decoder.write_chains(asked, floor)
        if written is None:
            return False
        for chain, tokens in zip(chains, written, strict=True):
            self._take(chain, tokens.tolist())
        return True

    def _take(self, chain: Chain, tokens: list[int]) -> None:
        """Add the generated tokens to one chain."""
        state = chain.state
        chain.tokens = state.legal(tokens, chain.tail)
        ended = bool(tokens) and tokens[-1] in state.request.sampler.end_ids
        stopped = bool(tokens) and chain.stop is not None
        broken = len(tokens) < chain.depth and not ended and not stopped
        if broken:
            state.off = f"model {self.model.info.name}: {NOT_FINITE}"
        state.counters.forwards += len(tokens) + broken
        state.counters.drafted += len(tokens)

    def observe(self, states: Sequence[ModelState], verified: Sequence[Verified]) -> None:
        """Do nothing: the model is fixed."""

    def commit(self, states: Sequence[ModelState], tokens: Sequence[IntArray]) -> None:
        """Keep the rows that match the emitted tokens; the other tokens become pending."""
        commit_states(self.model, states, tokens)

    def counters(self, state: ModelState) -> dict[str, Counters]:
        """Return the forwards and drafted tokens of this model."""
        state.counters.off = state.off
        if state.cache is not None:
            state.counters.kv_bytes = state.cache.report.kv_bytes
        return {self.name: state.counters}

    def _depth(self, state: ModelState, tail: IntArray, budget: Budget) -> int:
        asked = min(budget.share(self.name), budget.nodes)
        return min(asked, window(self.model, state, tail)) if asked > 0 else 0

    def _extend(self, chain: Chain, rows: Rows) -> None:
        """Draw the next token of one chain from the newest row."""
        state, logits = chain.state, rows.logits[0]
        sampler, counters = state.request.sampler, state.counters
        generated = [*state.written(chain.tail), *chain.tokens]
        probs = None
        try:
            if self.needs.probs:
                support = sampler.support(logits, generated)
                token = sampler.draw(support, len(generated), Purpose.CHOICE)
                probs = support.probs(logits.numel())
            else:
                token = sampler.choose(logits, generated)
        except LogitsError as error:
            state.off = f"model {self.model.info.name}: {error.problem}"
            chain.done = True
            return
        counters.drafted += 1
        chain.tokens.append(token)
        chain.distributions.append(probs)
        chain.references.append(logits if self.needs.reference else None)
        chain.done = (
            len(chain.tokens) >= chain.depth
            or token in sampler.end_ids
            or self._stops(chain, rows, generated)
        )

    def _stops(self, chain: Chain, rows: Rows, generated: Sequence[int]) -> bool:
        """Whether the chain ends with the newly drawn token, which stays in the chain in both
        cases.

        A trained head predicts a token's chance only after the model has read it, so the newest
        token has no prediction yet and counts as kept.
        """
        if chain.stop is None:
            return False
        if chain.stop.head is None:
            chain.chances.append(top_chance(chain.state.request.sampler, rows.logits[0], generated))
            return chain.stop(chain.chances)
        if len(chain.tokens) > 1:
            chain.chances.append(head_chance(chain.stop, rows, 0, self.model.info.name))
        return chain.stop([*chain.chances, 1.0])

    def _draft(self, chain: Chain) -> Draft:
        size = len(chain.tokens)
        if not size:
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(chain.tokens),
            parents=chain_parents(size),
            sources=(self.name,) * size,
            draw=Draw.IID,
            probs=tuple(chain.distributions) if self.needs.probs else None,
            reference=tuple(chain.references) if self.needs.reference else None,
        )


def _floor(stop: Stop | None) -> float | None:
    """Return the probability below which `stop` ends a draft; None if it uses another criterion."""
    if stop is None:
        return 0.0
    return stop.threshold if isinstance(stop, BelowThreshold) else None


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> ModelDrafter:
    return ModelDrafter(model=given.draft_model("model"), **options)  # pyright: ignore[reportArgumentType]


def draft_priors(drafter: ModelDrafter, given: Given) -> tuple[Source, ...]:
    """Return the expected results of a draft model's chains before the first measurement."""
    return (
        Source(
            name=drafter.name,
            seconds=given.draft_seconds(drafter.model),
            fixed=given.measured.overhead,
            accept=given.chances.draft,
        ),
    )


METHOD = DrafterMethod(
    name="model",
    cls=ModelDrafter,
    summary="the draft model alone, token by token",
    paper=Paper("speculative decoding", "2211.17192"),
    needs="a draft model",
    memory="the draft model and its cache",
    make=_make,
    priors=draft_priors,
    models=1,
)
