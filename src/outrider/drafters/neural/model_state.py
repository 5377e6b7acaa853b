"""What drafters that run a model of their own have in common: one cache for each request."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.errors import ContextError, OptionError
from outrider.core.types import IntArray, Prompt, Rows, Stop
from outrider.models.caches.prefill import note_reading
from outrider.protocols import Cache, LanguageModel, Request
from outrider.sampling import Sampler

UNFIT = (ContextError, OptionError)
"""What a model that sees raises for images that are too much for it."""


@dataclass(slots=True)
class ModelState:
    """One request at the draft model. Without a cache it stays undrafted, for the reason given."""

    request: Request
    cache: Any = None
    off: str | None = None
    counters: Counters = field(default_factory=Counters)

    def written(self, tail: IntArray) -> list[int]:
        """Generated tokens before the draft: committed output, then the tail."""
        output = self.request.output
        return [*output, *tail.tolist()] if len(tail) else output


def open_states(
    model: LanguageModel,
    requests: Sequence[Request],
    previous: Sequence[ModelState | None] | None = None,
) -> list[ModelState]:
    """Read each prompt that fits; `previous` states lend their caches."""
    states = [ModelState(request) for request in requests]
    old = previous or [None] * len(requests)
    begun = perf_counter()
    prompts = [own_prompt(request, model) for request in requests]
    fitting = [i for i, prompt in enumerate(prompts) if fits(model, prompt)]
    caches = start_fitting(
        model,
        [prompts[i] for i in fitting],
        [b.cache if isinstance(b := old[i], ModelState) else None for i in fitting],
    )
    for i, cache in zip(fitting, caches, strict=True):
        if cache is None:
            continue
        states[i].cache = cache
        note_reading(states[i].counters, cache, perf_counter() - begun)
    for state in states:
        if state.cache is None:
            state.off = f"the prompt does not fit {model.info.name}"
    return states


def commit_states(
    model: LanguageModel, states: Sequence[ModelState], tokens: Sequence[IntArray]
) -> None:
    """Keep the rows that the emitted tokens spell; the rest is pending next time."""
    for state, emitted in zip(states, tokens, strict=True):
        if state.cache is not None:
            state.off = state.off or unreadable(model, emitted)
            state.cache.commit(emitted)


def window(model: LanguageModel, state: ModelState, tail: IntArray) -> int:
    """How deep a draft may go; 0 where this request can not be drafted for. The last drafted token
    itself is never read by this model."""
    if state.off is not None or unreadable(model, tail):
        return 0
    room = state.cache.room - len(tail) + 1
    if room <= 0:
        state.off = f"the text has outgrown the window of {model.info.name}"
    return max(room, 0)


def top_chance(sampler: Sampler, logits: Tensor, generated: Sequence[int]) -> float:
    """The model's own probability of its best token. At temperature 0, where that would always be
    1, at temperature 1 and without warps."""
    if sampler.params.temperature > 0:
        return float(sampler.support(logits, generated).probabilities().max())
    scores = sampler.process(logits, generated).double()
    return float((scores.max() - scores.logsumexp(-1)).exp())


def head_chance(stop: Stop, rows: Rows, row: int, model: str) -> float:
    """What the trained head of `stop` says of the token that this row has read. Raises
    `OptionError` where the model shows no hidden states."""
    assert stop.head is not None
    if rows.hidden is None:
        raise OptionError(
            f"the head of {type(stop).__name__} reads hidden states, which model {model} does not "
            "show",
            hint="Leave the head out, or draft with a model that shows them",
        )
    return float(stop.head(rows.hidden[row]))


def start_fitting(
    model: LanguageModel, prompts: Sequence[Prompt], reuse: Sequence[Cache | None]
) -> Sequence[Cache | None]:
    """`model.start`, with None for prompts whose images, once seen, are too much for the window, or
    which the model's processor or template refuses."""
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
    """What `model`, a lower tier, reads: its own prompt, or the target's as plain token ids.

    A question about images loses the marks that the model does not have.
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
    """Whether the model can read the prompt, or what it selects of it, and a token more."""
    try:
        length = len(prompt) if model.selector is None else model.selector.reads(prompt)
    except ContextError:
        return False
    return length < model.info.context_length and max(prompt.token_ids) < model.info.vocab_size


def unreadable(model: LanguageModel, tokens: IntArray) -> str | None:
    """Why `model` can not read `tokens`: a wider tier wrote an id that it does not have."""
    if len(tokens) and tokens.max() >= model.info.vocab_size:
        return f"token {tokens.max()} is outside the vocabulary of {model.info.name}"
    return None
