"""Calls after `[TOOL_CALLS]`, as Mistral models write them.

Up to the seventh version of their tokenizer a list of objects follows:
`[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]`. Later versions repeat the mark for each call,
and write the name alone: `[TOOL_CALLS]f[ARGS]{"a": 1}`, between them with `[CALL_ID]` and the
identifier of the call before `[ARGS]`.
"""

import secrets
import string

from outrider.constraints.tools import CallForm
from outrider.server.tools.incremental import Incremental, Steps
from outrider.server.tools.reading import is_name

_CALLS, _ID, _ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_LETTERS = string.ascii_letters + string.digits


class Mistral(Incremental):
    """Finds calls after marks. Their identifiers have nine letters and digits: the chat templates
    of these models refuse others."""

    marks = (_CALLS, _ID, _ARGS)
    control = marks

    @classmethod
    def form(cls, template: str) -> CallForm:
        """Return how calls are written, where `template` is the chat template."""
        if _ARGS in template:
            return CallForm(begin=_CALLS, middle=_ARGS, end="", opens=_CALLS)
        return CallForm(
            before=f"{_CALLS} [",
            begin='{"name": "',
            middle='", "arguments": ',
            end="}",
            between=", ",
            after="]",
            opens=_CALLS,
        )

    def _new_id(self) -> str:
        return "".join(secrets.choice(_LETTERS) for _ in range(9))

    def _read(self) -> Steps[None]:
        while (yield from self._plain(_CALLS)) is not None:
            yield from self._space()
            first = yield from self._peek(_CALLS, "[", "{")
            listed = first in ("[", "{")
            if not (yield from self._listed() if listed else self._named()):
                self._say(self._used())

    def _listed(self) -> Steps[bool]:
        """Read objects, with or without brackets around them; return whether all are calls."""
        yield from self._take("[")
        while True:
            yield from self._space()
            if (yield from self._peek("{")) is None or not (yield from self._object(_CALLS)):
                return False
            yield from self._space()
            if (yield from self._take(",")) is None:
                break
        yield from self._take("]")
        self._used()
        return True

    def _named(self) -> Steps[bool]:
        """Read a name and its arguments; return whether this is a call."""
        name = yield from self._word()
        yield from self._space()
        id = ""
        if (yield from self._take(_ID)) is not None:
            id = yield from self._word()
        yield from self._take(_ARGS)
        yield from self._space()
        if not is_name(name) or (yield from self._peek("{")) is None:
            return False
        self._begin(name, id or None)
        yield from self._arguments(_CALLS)
        return True
