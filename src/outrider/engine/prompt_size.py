"""Computes how much of the target's window a prompt takes, and refuses prompts that do not fit."""

from outrider.core.errors import ContextError
from outrider.core.types import Prompt
from outrider.protocols import LanguageModel


def places_of(prompt: Prompt, target: LanguageModel) -> int:
    """Count the places of the target's window that `prompt` takes: all tokens, or the selected
    ones.

    Raises:
        ContextError: the prompt has a long input and does not fit.
    """
    selector = target.selector
    places = len(prompt) if selector is None else selector.reads(prompt)
    if prompt.context is None or places < target.info.context_length:
        return places
    hint = (
        "Set positions and recompute to 'auto', which uses positions without gaps if they are "
        "needed"
        if selector is not None
        else "Let the target read only a part: --keep-ratio 0.6 or --context-budget N, with "
        "--selection-on target (in Python selection=ContextConfig(...))"
    )
    raise ContextError(
        f"the prompt has {len(prompt)} tokens, {prompt.context.num_tokens} of them documents; "
        f"model {target.info.name} reads at most {target.info.context_length}, one of them for "
        "the answer",
        hint=hint,
    )
