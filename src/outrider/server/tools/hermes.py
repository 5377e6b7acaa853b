"""Calls between `<tool_call>` and `</tool_call>`, as Hermes and Qwen models write them."""

from outrider.server.tools.calls import FunctionCall, Part
from outrider.server.tools.reading import read_call

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Hermes:
    """Finds calls between tags. White space before a call is dropped, and between calls."""

    def __init__(self) -> None:
        self._held = ""
        self._called = False

    def feed(self, text: str) -> list[Part]:
        """Add text; return the parts that are complete."""
        self._held += text
        found: list[Part] = []
        while (at := self._held.find(OPEN)) >= 0:
            end = self._held.find(CLOSE, at)
            if end < 0:
                found += self._text(self._held[:at].rstrip())
                self._held = self._held[at:]
                return found
            raw = self._held[at : end + len(CLOSE)]
            found += self._text(self._held[:at].rstrip())
            found += self._call(raw, raw[len(OPEN) : -len(CLOSE)])
            self._held = self._held[end + len(CLOSE) :]
        kept = _kept(self._held)
        found += self._text(self._held[: len(self._held) - kept])
        self._held = self._held[len(self._held) - kept :]
        return found

    def close(self) -> list[Part]:
        """Return what is left. A last call without its end tag is a call if it is complete."""
        held, self._held = self._held, ""
        if held.startswith(OPEN):
            return self._call(held, held[len(OPEN) :])
        return self._text(held)

    def _call(self, raw: str, inside: str) -> list[Part]:
        call: FunctionCall | None = read_call(inside)
        self._called = self._called or call is not None
        return [raw] if call is None else [call]

    def _text(self, text: str) -> list[Part]:
        if self._called and not text.strip():
            return []
        return [text] if text else []


def _kept(text: str) -> int:
    """Return how much of the end of a text may belong to an opening tag: the begin of the tag, and
    the white space before it."""
    tag = next((n for n in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:n])), 0)
    before = text[: len(text) - tag]
    return tag + len(before) - len(before.rstrip())
