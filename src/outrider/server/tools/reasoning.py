"""Reasoning before an answer: text between `<think>` and `</think>` is no part of the answer."""

from dataclasses import dataclass

from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.server.tools.calls import CallParser, Part, Thought

OPEN, CLOSE = "<think>", "</think>"

_TAIL = 8
"""Tokens at the end of a prompt that may hold the opening tag."""


def thinks(tokenizer: Tokenizer) -> bool:
    """Whether the chat template knows reasoning between tags."""
    return CLOSE in str(tokenizer.tokenizer.chat_template or "")


def begins_inside(tokenizer: Tokenizer, ids: tuple[int, ...]) -> bool:
    """Whether a prompt ends with the opening tag, so that the answer begins with reasoning."""
    return tokenizer.decode_all(ids[-_TAIL:]).rstrip().endswith(OPEN)


@dataclass(slots=True)
class Reasoning:
    """Splits the reasoning at the begin of a text from the answer, which goes to another parser.

    White space around the reasoning is dropped. Tags later in the text are plain text.

    Attributes:
        inner: the parser of the answer.
        inside: the text begins with reasoning.
        length: characters up to the end of the reasoning, tags included.
    """

    inner: CallParser
    inside: bool = False
    length: int = 0
    _held: str = ""
    _begun: bool = False
    _done: bool = False

    def feed(self, text: str) -> list[Part]:
        """Add text; return the parts that are complete."""
        if self._done:
            return self.inner.feed(text)
        self._held += text
        if not self.inside:
            begin = self._held.lstrip()
            if OPEN.startswith(begin):  # it may become the tag
                return []
            if not begin.startswith(OPEN):
                return self._answer(self._held)
            self.inside = True
            self.length = len(self._held) - len(begin) + len(OPEN)
            self._held = begin[len(OPEN) :]
        return self._think()

    def close(self) -> list[Part]:
        """Return what is left. Reasoning that was cut stays reasoning."""
        held, self._held = self._held, ""
        found: list[Part] = []
        if not self._done and self.inside:
            self.length += len(held)
            found = self._thought(held.rstrip())
        elif held:
            found = self.inner.feed(held)
        return found + self.inner.close()

    def _think(self) -> list[Part]:
        at = self._held.find(CLOSE)
        if at >= 0:
            thought, rest = self._held[:at].rstrip(), self._held[at + len(CLOSE) :]
            self.length += at + len(CLOSE)
            return self._thought(thought) + self._answer(rest)
        kept = next((n for n in range(len(CLOSE) - 1, 0, -1) if self._held.endswith(CLOSE[:n])), 0)
        ready = self._held[: len(self._held) - kept].rstrip()
        self.length += len(ready)
        self._held = self._held[len(ready) :]
        return self._thought(ready)

    def _thought(self, text: str) -> list[Part]:
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        return [Thought(text)] if text else []

    def _answer(self, text: str) -> list[Part]:
        """Begin the answer; the empty lines between it and the reasoning are dropped."""
        self._done, self._held = True, ""
        if self.inside:
            self.inner = _Trimmed(self.inner)
        return self.inner.feed(text)


@dataclass(slots=True)
class _Trimmed:
    """Drops white space at the begin of a text."""

    inner: CallParser
    _begun: bool = False

    def feed(self, text: str) -> list[Part]:
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        return self.inner.feed(text) if text else []

    def close(self) -> list[Part]:
        return self.inner.close()
