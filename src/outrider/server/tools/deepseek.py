"""Calls between marks, as DeepSeek V3, R1 and V3.1 write them.

A call of V3 and R1 holds a type, a name and JSON in a fence; one of V3.1 only the name and the
JSON. All calls together lie between two further marks.
"""

from outrider.constraints.tools import CallForm
from outrider.server.tools.incremental import Incremental, Steps
from outrider.server.tools.reading import is_name

_BEGIN, _SEPARATOR, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_AROUND = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_TYPE = "function"
_FENCE = "```"


class DeepSeek(Incremental):
    """Finds calls between marks, in both forms."""

    marks = (_BEGIN, _SEPARATOR, _END, *_AROUND)
    control = marks

    @classmethod
    def form(cls, template: str) -> CallForm:
        """Return how calls are written, where `template` is the chat template."""
        fenced = f"{_TYPE}{_SEPARATOR}" in template or f"{_FENCE}json" in template
        return CallForm(
            before=_AROUND[0],
            begin=_BEGIN + (f"{_TYPE}{_SEPARATOR}" if fenced else ""),
            middle=f"\n{_FENCE}json\n" if fenced else _SEPARATOR,
            end=(f"\n{_FENCE}" if fenced else "") + _END,
            between="\n" if fenced else "",
            after=_AROUND[1],
            opens=_AROUND[0],
        )

    def _read(self) -> Steps[None]:
        while (mark := (yield from self._plain(_BEGIN, _END, *_AROUND))) is not None:
            if mark != _BEGIN:
                self._used()
            elif not (yield from self._marked()):
                self._say(self._used())

    def _marked(self) -> Steps[bool]:
        """Read a call after its first mark; return whether it is one."""
        yield from self._space()
        name = yield from self._word()
        yield from self._space()
        if (yield from self._take(_SEPARATOR)) is None:
            return False
        yield from self._space()
        if name == _TYPE and (yield from self._peek("{")) is None:
            name = yield from self._word()
            yield from self._space()
            if (yield from self._take(_FENCE)) is not None:
                yield from self._take("json")
                yield from self._space()
        if not is_name(name) or (yield from self._peek("{")) is None:
            return False
        self._begin(name)
        yield from self._arguments(_END, _BEGIN, _AROUND[1])
        yield from self._space()
        yield from self._take(_FENCE)
        self._used()
        return True
