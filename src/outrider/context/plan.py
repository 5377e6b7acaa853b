"""Plans how a model reads a selected prompt: how many tokens, and with which positions."""

from dataclasses import dataclass
from itertools import chain

from outrider.context.config import ContextConfig
from outrider.core.errors import ContextError, OptionError
from outrider.core.types import LongContext, Prompt
from outrider.protocols import LanguageModel

_NEEDS_ROWS = ("new_only", "partial")
"""Ways to swap that keep rows after a change."""

_ROOM_FOR_TEXT = 4
"""A prompt takes at most three quarters of the window; the rest is for the answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan for one prompt.

    Attributes:
        compact: whether positions are numbered without gaps.
        fixed: number of tokens that are always held: head and instruction.
        chunk_budget: largest total number of tokens of the chosen chunks.
    """

    compact: bool
    fixed: int
    chunk_budget: int

    @property
    def longest(self) -> int:
        """Largest number of prompt tokens held at any time."""
        return self.fixed + self.chunk_budget


def plan_for(
    prompt: Prompt, context: LongContext, model: LanguageModel, config: ContextConfig
) -> Plan:
    """Plan how `model` reads `prompt` with the long input `context`.

    Raises:
        ContextError: the two are inconsistent, or no chunk fits.
    """
    _check_prompt(prompt, context)
    fixed = len(prompt) - context.num_tokens
    compact = _is_compact(prompt, model, config)
    chunk_budget = context.num_tokens
    if not config.growth:
        sizes = sorted((len(chunk) for chunk in context.chunks), reverse=True)
        chunk_budget = sum(sizes[: max(config.kept(len(sizes)), len(context.pinned))])
    if config.budget is not None:
        remedy = f"Raise the budget above {fixed} tokens"
        chunk_budget = min(chunk_budget, _within(config.budget, fixed, "the budget", remedy))
    if compact:
        what, remedy = f"what {model.info.name} reads", "Use a model with a larger context"
        chunk_budget = min(chunk_budget, _within(_window(model), fixed, what, remedy))
    return Plan(compact, fixed, chunk_budget)


def _window(model: LanguageModel) -> int:
    """Return the number of places that a prompt may take."""
    return model.info.context_length - model.info.context_length // _ROOM_FOR_TEXT


def _within(limit: int, fixed: int, what: str, remedy: str) -> int:
    if fixed >= limit:
        raise ContextError(
            f"the instruction takes {fixed} tokens, but {what} is limited to {limit}",
            hint=f"{remedy}, or shorten the instruction",
        )
    return limit - fixed


def _is_compact(prompt: Prompt, model: LanguageModel, config: ContextConfig) -> bool:
    if config.positions != "auto":
        return config.positions == "compact"
    if config.recompute in _NEEDS_ROWS:
        return False
    gaps = model.segmented is not None and model.segmented.reads_gaps
    return not gaps or len(prompt) > _window(model)


def _check_prompt(prompt: Prompt, context: LongContext) -> None:
    """Raise `ContextError` unless `context` is a part of `prompt` with text after it."""
    begin, end = context.start, context.start + context.num_tokens
    chunks = chain.from_iterable(chunk.token_ids for chunk in context.chunks)
    if begin < 0 or prompt.token_ids[begin:end] != tuple(chunks):
        raise ContextError(
            f"the chunks of the long input differ from ids {begin} to {end} of the prompt",
            hint="Set LongContext.start to the index in the prompt at which the first chunk begins",
        )
    if end == len(prompt):
        raise ContextError(
            "the prompt has no instruction after the long input",
            hint="End the prompt with at least one token after the chunks",
        )
    if prompt.embeddings is not None or prompt.positions is not None:
        raise ContextError(
            "a prompt with a long input cannot hold embeddings or positions",
            hint="Give token ids only",
        )


def check_model(model: LanguageModel, config: ContextConfig) -> None:
    """Raise `OptionError` if `model` does not support `config`."""
    if model.selector is not None:
        raise OptionError(
            f"{model.info.name} already reads a selection",
            hint="Wrap its inner model, `inner`",
        )
    segmented = model.segmented
    if config.recompute in _NEEDS_ROWS and segmented is None:
        raise OptionError(
            f"recompute is {config.recompute!r}, but {model.info.name} cannot rearrange its cache",
            hint="Use recompute 'suffix'",
        )
    if config.recompute in _NEEDS_ROWS and config.positions == "compact":
        raise OptionError(
            f"recompute is {config.recompute!r}, but positions are 'compact', and kept rows cannot "
            "change their positions",
            hint="Use positions 'original', or recompute 'suffix'",
        )
    if config.positions == "original" and (segmented is None or not segmented.reads_gaps):
        raise OptionError(
            f"positions are 'original', but {model.info.name} does not support gaps in positions",
            hint="Use positions 'compact'",
        )
