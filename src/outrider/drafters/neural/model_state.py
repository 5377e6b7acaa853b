"""Shared by drafters that run their own model: one cache for each request."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.errors import ContextError, GrammarError, OptionError
from outrider.core.types import NO_IDS, IntArray, Prompt, Rows, Stop, as_ids
from outrider.drafters.neural.asks import Ask
from outrider.models.caches.prefill import note_reading, start_known
from outrider.models.heads.cache import Following
from outrider.models.heads.model import HeadModel
from outrider.protocols import Cache, LanguageModel, Request
from outrider.sampling import Sampler

AT_ONCE = 16
"""Most emitted tokens that a draft reads in its first forward, where texts are read in parts."""

UNFIT = (ContextError, OptionError)
"""Errors that a model with a vision encoder raises for images that do not fit."""

_TRIED, _REFUSED = 8, 0.25
"""Chains written without the mask of the grammar, and the share of them that it may cut, before
each token is chosen with the mask."""


@dataclass(slots=True)
class ModelState:
    """One request at the draft model. Without a cache, drafting is off for the stated reason.

    A chain that the model writes in one call is written without the mask of the grammar of the
    request, and cut before the first token that the grammar forbids.

    Attributes:
        request: the request.
        cache: what the model has read.
        off: why drafting is off.
        counters: its forwards and tokens.
        chains: how many chains were written without the mask.
        cut: how many of them the grammar cut.
        ahead: the end of the text that is not in the cache yet (`read_ahead`).
        tested: drafted tokens, proposed or not, that no emitted token has confirmed or refuted yet,
            each with the class of its probability.
        ask: the newest draft of a head that selects its tokens, until it is judged.
    """

    request: Request
    cache: Any = None
    off: str | None = None
    counters: Counters = field(default_factory=Counters)
    chains: int = 0
    cut: int = 0
    ahead: IntArray = field(default_factory=lambda: NO_IDS)
    tested: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    ask: Ask | None = None

    @property
    def masks(self) -> bool:
        """Whether each token needs the mask, since too many chains were cut without it."""
        return self.chains >= _TRIED and self.cut > _REFUSED * self.chains

    def legal(self, tokens: list[int], tail: IntArray) -> list[int]:
        """Return the beginning of a chain that the grammar of the request can read."""
        sampler = self.request.sampler
        if sampler.walk is None or not tokens:
            return tokens
        try:
            count = sampler.walk.admits(self.written(tail), tokens)
        except GrammarError:  # the target raises it again, if the text comes there
            return []
        self.chains += 1
        ends = count < len(tokens) and tokens[count] in sampler.end_ids
        self.cut += count < len(tokens) and not ends
        return tokens[: count + ends]

    def written(self, tail: IntArray) -> list[int]:
        """Return the tokens generated before the draft: committed output, then the tail."""
        output = self.request.output
        return [*output, *tail.tolist()] if len(tail) else output


def open_states(
    model: LanguageModel,
    requests: Sequence[Request],
    previous: Sequence[ModelState | None] | None = None,
) -> list[ModelState]:
    """Read each prompt that fits; the caches of `previous` states are reused.

    Of a request that is read in parts, nothing new is read yet.
    """
    states = [ModelState(request) for request in requests]
    old = previous or [None] * len(requests)
    if isinstance(model, HeadModel):
        for state, before in zip(states, old, strict=True):
            _follow(model, state, before)
        return states
    begun = perf_counter()
    prompts = [own_prompt(request, model) for request in requests]
    known = [before.cache if isinstance(before, ModelState) else None for before in old]
    fitting = [i for i, prompt in enumerate(prompts) if fits(model, prompt)]
    parts = [i for i in fitting if requests[i].in_parts and model.info.reads_in_parts(prompts[i])]
    for i in parts:
        found = start_known(model, prompts[i].token_ids, known[i])
        states[i].cache, states[i].ahead = found
    whole = [i for i in fitting if i not in parts]
    caches = start_fitting(model, [prompts[i] for i in whole], [known[i] for i in whole])
    for i, cache in zip(whole, caches, strict=True):
        if cache is None:
            continue
        states[i].cache = cache
        note_reading(states[i].counters, cache, perf_counter() - begun)
    for state in states:
        if state.cache is None:
            state.off = f"the prompt does not fit {model.info.name}"
    return states


def _follow(model: HeadModel, state: ModelState, before: ModelState | None) -> None:
    """Give a request a cache that follows the target's; nothing of its text is read yet.

    The cache of the state `before` is reused.
    """
    source = state.request.target_cache
    if source is None:
        state.off = f"there is no cache of the target for {model.info.name} to read"
        return
    ids = state.request.prompt.token_ids[1:]
    state.cache = model.follow(source, ids, before.cache if before else None)
    state.ahead = as_ids(ids[state.cache.offset + len(state.cache.text) :])


def commit_states(
    model: LanguageModel, states: Sequence[ModelState], tokens: Sequence[IntArray]
) -> None:
    """Keep the rows that match the emitted tokens; the other tokens become pending."""
    for state, emitted in zip(states, tokens, strict=True):
        if state.cache is not None:
            state.off = state.off or unreadable(model, emitted)
            now = 0 if len(state.ahead) else len(emitted)
            if state.request.in_parts:
                now = min(now, AT_ONCE)
            state.cache.commit(emitted[:now])
            if now < len(emitted):
                state.ahead = np.concatenate((state.ahead, emitted[now:]))


def window(model: LanguageModel, state: ModelState, tail: IntArray) -> int:
    """Return the largest possible depth of a draft; 0 if drafting is impossible. The model itself
    never reads the last drafted token.
    """
    if state.off is not None or len(state.ahead) or unreadable(model, tail):
        return 0
    longest = None
    if isinstance(state.cache, Following):
        if not state.cache.ready:
            return 0
        longest = state.cache.longest
    room = state.cache.remaining - len(tail) + 1
    if room <= 0:
        state.off = f"the text has outgrown the window of {model.info.name}"
    return max(room if longest is None else min(room, longest - len(tail)), 0)


def top_chance(sampler: Sampler, logits: Tensor, generated: Sequence[int]) -> float:
    """Return the model's own probability of its best token. At temperature 0, where it would always
    be 1, it is computed at temperature 1 and without warps.
    """
    if sampler.params.temperature > 0:
        return float(sampler.support(logits, generated).probabilities().max())
    scores = sampler.process(logits, generated).double()
    return float((scores.max() - scores.logsumexp(-1)).exp())


def head_chance(stop: Stop, rows: Rows, row: int, model: str) -> float:
    """Return the prediction of the trained head of `stop` for the token that this row has read.
    Raises `OptionError` if the model does not return hidden states.
    """
    assert stop.head is not None
    if rows.hidden is None:
        raise OptionError(
            f"the head of {type(stop).__name__} reads hidden states, which model {model} does not "
            "return",
            hint="Leave the head out, or draft with a model that returns them",
        )
    return float(stop.head(rows.hidden[row]))


def start_fitting(
    model: LanguageModel, prompts: Sequence[Prompt], reuse: Sequence[Cache | None]
) -> Sequence[Cache | None]:
    """Run `model.start`; return None for prompts whose images exceed the window after encoding, or
    which the model's processor or template rejects."""
    try:
        return model.start(prompts, reuse)
    except UNFIT:
        if all(prompt.image_prompt is None for prompt in prompts):
            raise
    return [_started(model, prompt) for prompt in prompts]


def _started(model: LanguageModel, prompt: Prompt) -> Cache | None:
    try:
        return model.start([prompt])[0]
    except UNFIT:
        return None


def own_prompt(request: Request, model: LanguageModel) -> Prompt:
    """Return the prompt for `model`, a lower tier: its own prompt, or the target's as plain token
    ids.

    A prompt with images loses the placeholder ids that the model does not have.
    """
    if request.draft_prompt is not None:
        return request.draft_prompt
    prompt = request.prompt
    if prompt.embeddings is not None:
        return Prompt(token_ids=prompt.token_ids)
    if prompt.image_prompt is None or max(prompt.token_ids, default=0) < model.info.vocab_size:
        return prompt
    known = tuple(token for token in prompt.token_ids if token < model.info.vocab_size)
    return replace(prompt, token_ids=known or prompt.token_ids)


def fits(model: LanguageModel, prompt: Prompt) -> bool:
    """Whether the model can read the prompt, or the selected parts of it, and one more token."""
    try:
        length = len(prompt) if model.selector is None else model.selector.reads(prompt)
    except ContextError:
        return False
    return length < model.info.context_length and max(prompt.token_ids) < model.info.vocab_size


def unreadable(model: LanguageModel, tokens: IntArray) -> str | None:
    """Return the reason why `model` cannot read `tokens`, because a larger vocabulary contains an
    id that it does not have; None if it can.
    """
    if len(tokens) and tokens.max() >= model.info.vocab_size:
        return f"token {tokens.max()} is outside the vocabulary of {model.info.name}"
    return None
