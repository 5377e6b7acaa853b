"""Keeps marks out of the answer: the parser must see them, and the client must not."""

import re
from collections.abc import Iterable

from outrider.server.tools.calls import CallParser, Part, Thought
from outrider.server.tools.reading import overlap


class Hidden:
    """Removes marks from the text and the reasoning that a parser returns."""

    def __init__(self, inner: CallParser, marks: Iterable[str]) -> None:
        """Remove `marks`, of which there is at least one, from what `inner` returns."""
        self._inner = inner
        self._marks = tuple(sorted(set(marks), key=len, reverse=True))
        self._any = re.compile("|".join(map(re.escape, self._marks)))
        self._held: str | Thought = ""

    def feed(self, text: str) -> list[Part]:
        """Add text; return the parts that are complete."""
        return self._cleaned(self._inner.feed(text))

    def close(self) -> list[Part]:
        """Return what is left."""
        return [*self._cleaned(self._inner.close()), *self._released()]

    def reasons_at(self, place: int) -> bool:
        """Whether the character before `place` is reasoning."""
        return self._inner.reasons_at(place)

    def _cleaned(self, parts: Iterable[Part]) -> list[Part]:
        found: list[Part] = []
        for part in parts:
            if isinstance(part, str | Thought):
                if type(part) is not type(self._held):
                    found += self._released()
                found += self._text(part)
            else:
                found += [*self._released(), part]
        return found

    def _text(self, part: str | Thought) -> list[Part]:
        """Return a text behind the one that is held, without marks; hold what may begin one."""
        *before, last = self._any.split(_text_of(self._held) + _text_of(part))
        end = len(last) - overlap(last, self._marks)
        self._held = _like(part, last[end:])
        ready = "".join(before) + last[:end]
        return [_like(part, ready)] if ready else []

    def _released(self) -> list[Part]:
        held, self._held = self._held, ""
        return [held] if _text_of(held) else []


def _text_of(part: str | Thought) -> str:
    return part.text if isinstance(part, Thought) else part


def _like(part: str | Thought, text: str) -> str | Thought:
    return Thought(text) if isinstance(part, Thought) else text
