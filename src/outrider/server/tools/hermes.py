"""Calls between `<tool_call>` and `</tool_call>`, as Hermes and Qwen models write them."""

from outrider.constraints.tools import CallForm
from outrider.server.tools.incremental import Incremental, Steps

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Hermes(Incremental):
    """Finds calls between tags: objects with a name and arguments. White space before a call is
    dropped, and between calls. The end tag may be missing."""

    marks = (OPEN, CLOSE)

    @classmethod
    def form(cls, template: str) -> CallForm:
        """Return how calls are written, where `template` is the chat template."""
        return CallForm(
            begin=f'{OPEN}\n{{"name": "',
            middle='", "arguments": ',
            end=f"}}\n{CLOSE}",
            between="\n",
            opens=OPEN,
            closes=CLOSE,
        )

    def _read(self) -> Steps[None]:
        closes = ()
        while (mark := (yield from self._plain(OPEN, *closes))) is not None:
            if mark == CLOSE:  # of a call that was returned
                self._used()
                closes = ()
            elif (yield from self._tagged()):
                closes = (CLOSE,)
            else:
                yield from self._until(CLOSE)
                self._say(self._used())

    def _tagged(self) -> Steps[bool]:
        """Read a call after its tag; return whether it is one."""
        yield from self._space()
        return (yield from self._peek("{")) is not None and (yield from self._object(CLOSE))
