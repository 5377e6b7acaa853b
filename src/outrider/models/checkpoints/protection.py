"""Control tokens in the texts of chat messages are read as plain text.

A message that contains `<|im_end|>` could otherwise end its turn and begin another one, with a role
of its own. A separator inside each such text keeps the tokenizer from recognising it; the rendered
conversation is encoded in pieces between the separators.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from outrider.core.types import Message
from outrider.core.values import JsonValue

SEPARATOR = "\U0010fffe"
"""A code point that Unicode reserves: it is no character, so no text holds it."""

Value = TypeVar("Value")


class Protection:
    """Finds the texts of control tokens in messages."""

    def __init__(self, tokens: Iterable[str]) -> None:
        """Protect against `tokens`, the texts of all control tokens."""
        ordered = sorted({t for t in tokens if len(t) > 1}, key=len, reverse=True)
        pattern = "|".join(re.escape(token) for token in ordered)
        self._tokens = re.compile(pattern) if pattern else None

    def first(self, messages: Sequence[Message]) -> str | None:
        """Return the first text of a control token in the messages, or None."""
        for text in _texts(list(messages)):
            if self._tokens is not None and (found := self._tokens.search(text)):
                return found.group()
        return None

    def hide(self, value: JsonValue) -> JsonValue:
        """Return messages, or a part of them, with a separator in the text of each control token.

        Objects other than texts, lists and mappings (images) stay as they are.
        """
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, dict):
            return {name: self.hide(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(part) for part in value]
        return value

    def _hidden(self, text: str) -> str:
        text = text.replace(SEPARATOR, "")
        if self._tokens is None:
            return text
        return self._tokens.sub(lambda m: m.group()[0] + SEPARATOR + m.group()[1:], text)


def _texts(value: JsonValue) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
