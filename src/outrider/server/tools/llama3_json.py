"""Calls as bare JSON, as Llama 3 models write them: an answer that begins with an object."""

import json

from outrider.constraints.tools import CallForm
from outrider.server.tools.calls import FunctionCall
from outrider.server.tools.incremental import Incremental, Steps
from outrider.server.tools.reading import as_call

_TAGS = ("<|python_tag|>", "<|python_start|>")
_END = "<|python_end|>"


class Llama3Json(Incremental):
    """Finds calls in an answer that is JSON: objects, with semicolons between them.

    An answer that begins in another way is text, and is returned as it arrives.
    """

    marks = (*_TAGS, _END)
    control = marks

    @classmethod
    def form(cls, template: str) -> CallForm:
        """Return how calls are written, where `template` is the chat template."""
        return CallForm(
            begin='{"name": "',
            middle='", "parameters": ',
            end="}",
            between="; ",
            plain=r"(?s:[ \n\r\t]*([^\s{<].*|<[^|].*)?)",
        )

    def _read(self) -> Steps[None]:
        yield from self._space()
        tag = yield from self._take(*_TAGS)
        yield from self._space()
        if tag is None and (yield from self._peek("{")) is None:
            yield from self._plain()
            return
        yield from self._all()
        calls = _calls(self._text.strip().removeprefix(tag or "").removesuffix(_END).strip())
        for call in calls:
            self._call(call)
        self._say(self._used())


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
