"""The forms a prompt may come in."""

from collections.abc import Mapping, Sequence
from typing import Any

from outrider.errors import OptionError
from outrider.types import Prompt


def is_batch(prompt: Any) -> bool:
    """Whether `prompt` is a list of prompts, rather than one.

    A list of messages and a list of token ids are one prompt each.
    """
    if isinstance(prompt, str | Prompt) or not isinstance(prompt, Sequence):
        return False
    return not (prompt and all(isinstance(part, Mapping | int) for part in prompt))


def read_prompt(prompt: Any, tokenizer: Any) -> Prompt:
    """One prompt as token ids. Raises `OptionError` for anything that is not a prompt."""
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        return Prompt(token_ids=_needed(tokenizer, "a string").encode(prompt))
    if isinstance(prompt, Sequence) and prompt:
        if all(isinstance(part, Mapping) for part in prompt):
            return Prompt(token_ids=_needed(tokenizer, "chat messages").chat(prompt))
        if all(isinstance(part, int) for part in prompt):
            return Prompt(token_ids=tuple(prompt))
    raise OptionError(
        f"a prompt can not be {prompt!r:.60}",
        hint="Give a string, chat messages ({'role': ..., 'content': ...}), or token ids",
    )


def _needed(tokenizer: Any, what: str) -> Any:
    if tokenizer is None:
        raise OptionError(
            f"the prompt is {what}, but the target has no tokenizer",
            hint="Give token ids, or load the target from a folder with a tokenizer",
        )
    return tokenizer
