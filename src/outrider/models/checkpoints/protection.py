"""Control tokens in the texts of chat messages are read as plain text.

A message that contains `<|im_end|>` could otherwise end its turn and begin another one, with a role
of its own. A separator inside each such text keeps the tokenizer from recognising it; the rendered
conversation is encoded in pieces between the separators.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from outrider.core.types import Message
from outrider.core.values import JsonValue

SEPARATOR = "\U0010fffe"
"""A code point that Unicode reserves: it is no character, so no text holds it."""

_STRUCTURE = frozenset(
    {
        *("role", "content", "type", "text", "name", "tool_calls", "function", "arguments", "id"),
        *("description", "parameters", "properties", "required", "items", "enum", "default"),
        *("anyOf", "oneOf", "allOf", "nullable", "additionalProperties", "return", "strict"),
        *("title", "doc_id"),
    }
)
"""Keys of messages, functions and documents that templates read by name."""


class Protection:
    """Finds the texts of control tokens in messages."""

    def __init__(self, tokens: Iterable[str]) -> None:
        """Protect against `tokens`, the texts of all control tokens."""
        ordered = sorted({t for t in tokens if len(t) > 1}, key=len, reverse=True)
        pattern = "|".join(re.escape(token) for token in ordered)
        self._tokens = re.compile(pattern) if pattern else None

    def first(self, messages: Sequence[Message]) -> str | None:
        """Return the first text of a control token in the messages, or None.

        A template may join the texts of a message, so a token may also lie across two of them.
        """
        if self._tokens is None:
            return None
        for message in messages:
            joined = "".join(_texts(message))
            for text in (joined, unicodedata.normalize("NFKC", joined)):
                if found := self._tokens.search(text):
                    return found.group()
        return None

    def hide(self, value: JsonValue) -> JsonValue:
        """Return messages, or a part of them, with separators in the texts of control tokens, and
        before each text.

        Objects other than texts, lists and mappings (images) stay as they are.
        """
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, Mapping):
            return dict(self._entry(name, part) for name, part in value.items())
        if isinstance(value, list | tuple):
            return [self.hide(part) for part in value]
        return value

    def _entry(self, name: str, part: JsonValue) -> tuple[str, JsonValue]:
        """Hide tokens in a key and its value. Templates compare roles and types, so these change
        only if they hold a token."""
        name_hidden = name if name in _STRUCTURE else self.hide(name)
        compared = name in ("role", "type") and isinstance(part, str)
        if compared and (self._tokens is None or not self._tokens.search(part)):
            return name_hidden, part
        return name_hidden, self.hide(part)

    def _hidden(self, text: str) -> str:
        """Split before and after each character that a normalizer may change, and in each token."""
        text = text.replace(SEPARATOR, "")
        if self._tokens is None or not text:
            return text
        pieces: list[str] = [""]  # what stands before this text cannot end in it
        for part in _stable(text):
            start = 0
            while found := self._tokens.search(part, start):
                pieces.append(part[start : found.start() + 1])
                start = found.start() + 1  # tokens may overlap
            pieces.append(part[start:])
        return SEPARATOR.join(pieces)


def _stable(text: str) -> Iterable[str]:
    """Split around characters that NFKC changes: a tokenizer may make a token of them."""
    if unicodedata.is_normalized("NFKC", text):
        return [text]
    changed = "".join(sorted({c for c in text if unicodedata.normalize("NFKC", c) != c}))
    return re.split(f"([{re.escape(changed)}])", text) if changed else [text]


def _texts(value: JsonValue) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if name not in _STRUCTURE:
                yield from _texts(name)
            if name != "type" or not isinstance(part, str):
                yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
