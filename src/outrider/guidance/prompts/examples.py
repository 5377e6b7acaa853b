"""Removes examples of input and output from prompts that ask for a function."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from outrider.core.types import Message
from outrider.inputs.given import GivenPrompt
from outrider.inputs.images.messages import is_chat

_DOCTEST = re.compile(r"\s*>>>")
_HEADING = re.compile(
    r"\s*(?:for\s+)?(?:examples?|e\.g\.?|sample (?:input|output)s?|\[?input/output\]? samples?)"
    r"\s*\d*\s*:?\s*$",
    re.IGNORECASE,
)
_INLINE = re.compile(r"\s*(?:for\s+)?(?:examples?|e\.g\.?)\s*\d*\s*:\s*\S", re.IGNORECASE)
_CALL = re.compile(
    r"\s*[\w.]+\(.*\)\s*(?:==?|#?=+>|-+>|➞|→|returns?\b|(?:should|will) (?:be|return)\b)\s*\S"
)
_ASSERT = re.compile(r"\s*assert\b")
_TESTS = re.compile(r".*\b(?:pass|satisfy)\b.*\b(?:tests?|assertions?)\b.*:\s*$", re.IGNORECASE)
_QUOTES = re.compile(r"(\"\"\"|''')\s*$")


def without_examples(prompt: GivenPrompt) -> GivenPrompt | None:
    """Return a prompt without examples; None if it has none or nothing else, or holds tokens.

    Removed are the forms of HumanEval and MBPP: doctests (`>>>`) with the lines of their results up
    to the next blank line, `Example:` and the lines below it, lines such as `f(1) == 2` or `f(1)
    -> 2`, `assert`, and the line that announces such tests. Quotes that end a description
    stay. Of messages, all texts are searched.
    """
    if isinstance(prompt, str):
        bare = _bare(prompt)
        return None if bare == prompt or not bare.strip() else bare
    if not is_chat(prompt):
        return None
    messages = cast("Sequence[Message]", prompt)
    changed = [in_texts(message, _bare) for message in messages]
    return None if changed == list(messages) else changed


def in_texts(message: Message, change: Callable[[str], str]) -> Message:
    """Return a message whose texts are changed; other parts of its content stay."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": change(content)}
    if not isinstance(content, Sequence):
        return message
    parts = [
        {**part, "text": change(part["text"])}
        if isinstance(part, Mapping) and isinstance(part.get("text"), str)
        else part
        for part in content
    ]
    return {**message, "content": parts}


def _bare(text: str) -> str:
    """Return a text without the lines of examples."""
    kept: list[str] = []
    within = below = False
    for line in text.splitlines(keepends=True):
        quotes = _QUOTES.search(line)
        content = line[: quotes.start()] if quotes else line
        if below and content.strip():  # the first line below a heading
            within, below = True, False
        is_example = within and bool(content.strip())
        if _HEADING.match(content):
            is_example = below = True
        elif any(form.match(content) for form in (_INLINE, _CALL, _ASSERT, _TESTS)):
            is_example = True
        elif _DOCTEST.match(content):
            is_example = within = True
        if not content.strip() or quotes:
            within, below = False, below and not quotes
        if not is_example:
            kept.append(line)
        elif quotes:
            indent = line[: len(line) - len(line.lstrip())]
            kept.append(indent + line[quotes.start() :])
    return "".join(kept)
