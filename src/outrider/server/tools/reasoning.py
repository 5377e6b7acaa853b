"""Reasoning before an answer: text between `<think>` and `</think>` is no part of the answer."""

from dataclasses import dataclass

from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Gate
from outrider.server.tools.calls import CallParser, Part, Thought

Tags = tuple[str, str]
"""The marks before and after reasoning."""

TAGS: tuple[Tags, ...] = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Those that are known: most models write the first, Mistral models the second."""

_TAIL = 8
"""Tokens at the end of a prompt that may hold the opening tag."""


def tags_of(tokenizer: Tokenizer) -> Tags | None:
    """Return the tags of reasoning that the chat template knows, or None."""
    source = str(tokenizer.tokenizer.chat_template or "")
    return next((tags for tags in TAGS if tags[1] in source), None)


def begins_inside(tokenizer: Tokenizer, ids: tuple[int, ...], tags: Tags) -> bool:
    """Whether a prompt ends with the opening tag, so that the answer begins with reasoning."""
    return tokenizer.decode_all(ids[-_TAIL:]).rstrip().endswith(tags[0])


def gate_after(tokenizer: Tokenizer, ids: tuple[int, ...]) -> Gate | None:
    """Return where an answer begins if a prompt ends inside reasoning; None: at once."""
    tags = tags_of(tokenizer)
    if tags is None or not begins_inside(tokenizer, ids, tags):
        return None
    return Gate(open=tags[1], required=True)


def ends_reasoning(tokenizer: Tokenizer, ids: tuple[int, ...], tags: Tags) -> bool:
    """Whether a prompt ends with the closing tag, so that the answer begins without reasoning."""
    return tokenizer.decode_all(ids[-_TAIL:]).rstrip().endswith(tags[1])


@dataclass(slots=True)
class Reasoning:
    """Splits the reasoning at the begin of a text from the answer, which goes to another parser.

    White space around the reasoning is dropped. Tags later in the text are plain text.

    Attributes:
        inner: the parser of the answer.
        inside: the text begins with reasoning.
        tags: the marks before and after the reasoning.
        length: characters up to the end of the reasoning, tags included.
    """

    inner: CallParser
    inside: bool = False
    tags: Tags = TAGS[0]
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
            begin, tag = self._held.lstrip(), self.tags[0]
            if tag.startswith(begin):  # it may become the tag
                return []
            if not begin.startswith(tag):
                return self._answer(self._held)
            self.inside = True
            self.length = len(self._held) - len(begin) + len(tag)
            self._held = begin[len(tag) :]
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

    def reasons_at(self, place: int) -> bool:
        """Whether the character before `place` is reasoning, or one of its tags."""
        return self.length > 0 and place <= self.length

    def _think(self) -> list[Part]:
        close = self.tags[1]
        at = self._held.find(close)
        if at >= 0:
            thought, rest = self._held[:at].rstrip(), self._held[at + len(close) :]
            self.length += at + len(close)
            return self._thought(thought) + self._answer(rest)
        kept = next((n for n in range(len(close) - 1, 0, -1) if self._held.endswith(close[:n])), 0)
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

    def reasons_at(self, place: int) -> bool:
        return self.inner.reasons_at(place)
