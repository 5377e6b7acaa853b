"""A smaller language model as drafter."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from torch import Tensor

from outrider.counters import Counters
from outrider.errors import LogitsError
from outrider.models.cache import attach
from outrider.noise import Purpose
from outrider.protocols import NO_NEEDS, LanguageModel, Needs, Request, Segment
from outrider.sampling import NOT_FINITE
from outrider.tree import chain_parents
from outrider.types import (
    EMPTY_DRAFT,
    Budget,
    Draft,
    Draw,
    IntArray,
    Prompt,
    Rows,
    Verified,
    as_ids,
)


@dataclass(slots=True)
class ModelState:
    """One request at the draft model. Without a cache it stays undrafted, for the reason given."""

    request: Request
    cache: Any = None
    off: str | None = None
    counters: Counters = field(default_factory=Counters)


@dataclass(slots=True)
class _Chain:
    """A draft in the making."""

    state: ModelState
    tail: IntArray
    depth: int
    tokens: list[int] = field(default_factory=list)
    laws: list[Tensor | None] = field(default_factory=list)
    references: list[Tensor | None] = field(default_factory=list)
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDrafter:
    """Drafts a chain, token by token, all requests in one forward.

    Tokens are drawn with the noise of the target's own choices (`noise.py`), which is what makes
    a good draft match. The model reads what it missed through its cache's pending tokens. A
    request whose text outgrows the model's window, or for which it returns NaN, goes on undrafted.
    """

    model: LanguageModel
    name: str = "draft"
    needs: Needs = NO_NEEDS

    draw = Draw.IID
    gives = Needs(law=True, reference=True)
    learns = False

    def bind(self, needs: Needs, tier: int) -> "ModelDrafter":
        """Fill laws and references only where the rule above reads them."""
        return replace(self, needs=needs)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[ModelState | None] | None = None
    ) -> list[ModelState]:
        """Read each prompt that fits."""
        states = [ModelState(request) for request in requests]
        old = previous or [None] * len(requests)
        begun = perf_counter()
        fitting = [i for i, r in enumerate(requests) if fits(self.model, own_prompt(r))]
        caches = self.model.start(
            [own_prompt(requests[i]) for i in fitting],
            [b.cache if isinstance(b := old[i], ModelState) else None for i in fitting],
        )
        for i, cache in zip(fitting, caches, strict=True):
            states[i].cache = cache
            states[i].counters.add_seconds(prefill=perf_counter() - begun)
        for state in states:
            if state.cache is None:
                state.off = f"the prompt does not fit {self.model.name}"
        return states

    def propose(
        self, states: Sequence[ModelState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """One chain a request, as deep as its budget, its window and end tokens allow."""
        chains = [
            _Chain(state, tail, self._depth(state, tail, budget))
            for state, tail, budget in zip(states, tails, budgets, strict=True)
        ]
        active = [chain for chain in chains if chain.depth > 0]
        pairs = [attach(chain.state.cache, chain.tail, EMPTY_DRAFT) for chain in active]
        segments, want = [s for s, _ in pairs], [w for _, w in pairs]
        if self._write(active, segments):
            active = []
        while active:
            for chain, rows in zip(active, self.model.forward(segments, want), strict=True):
                self._extend(chain, rows)
            active = [chain for chain in active if not chain.done]
            segments = [Segment(c.state.cache, as_ids(c.tokens[-1:])) for c in active]
            want = [as_ids([c.state.cache.num_speculative]) for c in active]
        return [self._draft(chain) for chain in chains]

    def _write(self, chains: Sequence[_Chain], segments: Sequence[Segment]) -> bool:
        """Let the model write the chains in one go; false, with nothing done, if it can not."""
        write = getattr(self.model, "write", None)
        if write is None or self.needs != NO_NEEDS or not chains:
            return False
        requests = [chain.state.request for chain in chains]
        before = [
            [*request.output, *chain.tail.tolist()] if len(chain.tail) else request.output
            for request, chain in zip(requests, chains, strict=True)
        ]
        samplers, depths = [r.sampler for r in requests], [c.depth for c in chains]
        written = write(segments, samplers, before, depths)
        if written is None:
            return False
        for chain, tokens in zip(chains, written, strict=True):
            self._take(chain, tokens.tolist())
        return True

    def _take(self, chain: _Chain, tokens: list[int]) -> None:
        """Note what the model wrote for one chain."""
        state = chain.state
        chain.tokens = tokens
        ended = bool(tokens) and tokens[-1] in state.request.sampler.end_ids
        broken = len(tokens) < chain.depth and not ended
        if broken:
            state.off = f"model {self.model.name}: {NOT_FINITE}"
        state.counters.forwards += len(tokens) + broken
        state.counters.drafted += len(tokens)

    def observe(self, states: Sequence[ModelState], verified: Sequence[Verified]) -> None:
        """A fixed model learns nothing."""

    def commit(self, states: Sequence[ModelState], tokens: Sequence[IntArray]) -> None:
        """Keep the rows that the emitted tokens spell; the rest is pending next time."""
        for state, emitted in zip(states, tokens, strict=True):
            if state.cache is not None:
                state.off = state.off or unreadable(self.model, emitted)
                state.cache.commit(emitted)

    def counters(self, state: ModelState) -> dict[str, Counters]:
        """Forwards and drafted tokens of this model."""
        state.counters.off = state.off
        return {self.name: state.counters}

    def _depth(self, state: ModelState, tail: IntArray, budget: Budget) -> int:
        """Draft length: the last drafted token itself is never read by this model."""
        if state.off is not None or unreadable(self.model, tail):
            return 0
        window = state.cache.room - len(tail) + 1
        if window <= 0:
            state.off = f"the text has outgrown the window of {self.model.name}"
        return min(budget.share(self.name), budget.nodes, window)

    def _extend(self, chain: _Chain, rows: Rows) -> None:
        """Draw the next token of one chain from the newest row."""
        state, logits = chain.state, rows.logits[0]
        sampler, counters = state.request.sampler, state.counters
        generated = [*state.request.output, *(int(t) for t in chain.tail), *chain.tokens]
        counters.forwards += 1
        try:
            support = sampler.support(logits, generated)
        except LogitsError as error:
            state.off = f"model {self.model.name}: {error.problem}"
            chain.done = True
            return
        token = sampler.draw(support, len(generated), Purpose.CHOICE)
        law = support.law(logits.numel()) if self.needs.law else None
        counters.drafted += 1
        chain.tokens.append(token)
        chain.laws.append(law)
        chain.references.append(logits if self.needs.reference else None)
        chain.done = len(chain.tokens) >= chain.depth or token in sampler.end_ids

    def _draft(self, chain: _Chain) -> Draft:
        size = len(chain.tokens)
        if not size:
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(chain.tokens),
            parents=chain_parents(size),
            sources=(self.name,) * size,
            draw=Draw.IID,
            law=tuple(chain.laws) if self.needs.law else None,
            reference=tuple(chain.references) if self.needs.reference else None,
        )


def own_prompt(request: Request) -> Prompt:
    """What a lower tier reads: its own prompt, or the target's as plain token ids."""
    if request.draft_prompt is not None:
        return request.draft_prompt
    if request.prompt.embeddings is not None:
        return Prompt(token_ids=request.prompt.token_ids)
    return request.prompt


def fits(model: LanguageModel, prompt: Prompt) -> bool:
    """Whether the model can read the prompt and at least one token more."""
    return len(prompt) < model.context_length and max(prompt.token_ids) < model.vocab_size


def unreadable(model: LanguageModel, tokens: IntArray) -> str | None:
    """Why `model` can not read `tokens`: a wider tier wrote an id that it does not have."""
    if len(tokens) and tokens.max() >= model.vocab_size:
        return f"token {tokens.max()} is outside the vocabulary of {model.name}"
    return None
