"""Calls as bare JSON, as Llama 3 models write them: an answer that begins with an object."""

import json

from outrider.server.tools.calls import FunctionCall, Part
from outrider.server.tools.reading import as_call

_TAG = "<|python_tag|>"


class Llama3Json:
    """Finds calls in an answer that is JSON: objects, with semicolons between them.

    An answer that begins in another way is text, and is returned as it arrives.
    """

    def __init__(self) -> None:
        self._held = ""
        self._plain = False

    def feed(self, text: str) -> list[Part]:
        """Add text; return it unless the answer may be JSON."""
        if self._plain:
            return [text] if text else []
        self._held += text
        begin = self._held.lstrip()
        if not begin or begin.startswith(("{", _TAG)) or _TAG.startswith(begin):
            return []
        self._plain = True
        held, self._held = self._held, ""
        return [held]

    def close(self) -> list[Part]:
        """Return the calls, or the text if it holds no calls."""
        held, self._held = self._held, ""
        calls = _calls(held.strip().removeprefix(_TAG).strip())
        if calls:
            return [*calls]
        return [held] if held else []


def _calls(text: str) -> list[FunctionCall]:
    """Return all calls; none if any part of the text is something else."""
    decoder, found = json.JSONDecoder(), list[FunctionCall]()
    while text:
        try:
            data, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return []
        if (call := as_call(data)) is None:
            return []
        found.append(call)
        text = text[end:].lstrip().removeprefix(";").lstrip()
    return found
