"""Calls as tags, as Qwen3-Coder and Qwen3.5 models write them:
`<tool_call><function=f><parameter=a>1</parameter></function></tool_call>`.

Values are text. Where the JSON Schema of a parameter wants something else, they are converted.
"""

from collections.abc import Callable

from outrider.constraints.json_schema import kinds_of, types_of
from outrider.constraints.tools import CallForm
from outrider.server.tools.calls import CallEnd, CallText, FunctionCall
from outrider.server.tools.incremental import Incremental, Steps
from outrider.server.tools.reading import is_name, json_text, overlap, strict_json

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _END = "<function=", "</function>"
_PARAMETER, _VALUE_END = "<parameter=", "</parameter>"
_LAST = (f"\n{_VALUE_END}", _VALUE_END)

_WORDS = {"True": "true", "False": "false", "None": "null"}
"""Values of Python that models write for those of JSON."""

Send = Callable[[str], None]


class Qwen3Coder(Incremental):
    """Finds calls between tags. A call without the outer tags, which these models may leave out, is
    returned once it is whole, any other one part by part."""

    marks = (_OPEN, _CLOSE)

    @classmethod
    def form(cls, template: str) -> CallForm:
        """Return how calls are written, where `template` is the chat template."""
        return CallForm(
            begin=f"{_OPEN}\n{_FUNCTION}",
            middle=">\n",
            end=f"{_END}\n{_CLOSE}",
            between="\n",
            arguments="tags",
            opens=_OPEN,
            closes=_CLOSE,
        )

    def _read(self) -> Steps[None]:
        closes = ()
        while (mark := (yield from self._plain(_OPEN, _FUNCTION, *closes))) is not None:
            if mark == _CLOSE:  # of a call that was returned
                self._used()
                closes = ()
                continue
            if mark == _OPEN:
                found = yield from self._tagged()
            else:
                found = yield from self._bare()
            closes = (_CLOSE,) if found else ()

    def _tagged(self) -> Steps[bool]:
        """Read a call after its tag; return whether it is whole."""
        yield from self._space()
        name = ""
        if (yield from self._take(_FUNCTION)) is not None:
            name = yield from self._name()
        if not name:
            yield from self._until(_CLOSE)
            self._say(self._used())
            return False
        self._begin(name)
        if (yield from self._peek("{")) is not None:  # some models write JSON
            yield from self._arguments(_END, _CLOSE)
            yield from self._space()
            yield from self._take(_END)
            self._used()
            return True
        whole = yield from self._parameters(name, lambda text: self._found.append(CallText(text)))
        self._found.append(CallEnd(broken=not whole))
        if not whole:
            yield from self._until(_CLOSE)
        self._used()
        return whole

    def _bare(self) -> Steps[bool]:
        """Read a call without a tag; return whether it is one."""
        sent: list[str] = []
        name = yield from self._name()
        if name and (yield from self._parameters(name, sent.append)):
            self._call(FunctionCall(name, "".join(sent)))
            return True
        self._say(self._used())
        return False

    def _name(self) -> Steps[str]:
        """Read the name of a function up to the end of its tag; return it, or an empty text."""
        name = yield from self._word()
        if not is_name(name) or (yield from self._take(">")) is None:
            return ""
        yield from self._space()
        return name

    def _parameters(self, name: str, send: Send) -> Steps[bool]:
        """Read parameters up to the end of the function, and send them as the JSON of an object;
        return whether they are whole."""
        schema, begin = self._schemas.get(name, {}), "{"
        while True:
            yield from self._space()
            mark = yield from self._take(_PARAMETER, _END)
            if mark == _END:
                send("{}" if begin == "{" else "}")
                return True
            start = self._at
            if mark is None or (yield from self._until(">")) is None:
                return False
            key = self._text[start : self._at - 1].strip()
            send(f"{begin}{json_text(key)}: ")
            begin = ", "
            types = types_of(schema, key)
            read = self._string(send) if types <= {"string"} else self._value(types, send)
            if not (yield from read):
                return False

    def _string(self, send: Send) -> Steps[bool]:
        """Read a text, and send it part by part; return whether it is whole. The line breaks around
        it belong to the tags."""
        yield from self._take("\n")
        send('"')
        while True:
            end = self._text.find(_VALUE_END, self._at)
            left = self._text[self._at : end if end >= 0 else len(self._text)]
            cut = overlap(left, _LAST)  # no part of it, even if the end tag is cut
            left = left.removesuffix("\n") if end >= 0 else left[: len(left) - cut]
            if left:
                send(json_text(left)[1:-1])
            if end >= 0:
                self._at = end + len(_VALUE_END)
                send('"')
                return True
            self._at += len(left)
            if self._ended:
                return False
            yield

    def _value(self, types: frozenset[str], send: Send) -> Steps[bool]:
        """Read a value and send it; return whether it is whole."""
        start = self._at
        if (yield from self._until(_VALUE_END)) is None:
            return False
        value = self._text[start : self._at - len(_VALUE_END)]
        send(as_json(value.removeprefix("\n").removesuffix("\n"), types))
        return True


def as_json(value: str, types: frozenset[str]) -> str:
    """Return a value as JSON of one of the types; as a text if it is no value of these."""
    written = _WORDS.get(value.strip(), value.strip())
    if "string" in types and not (written == "null" and "null" in types):
        return json_text(value)
    try:
        data = strict_json(written)
    except (ValueError, RecursionError):
        return json_text(value)
    if types.isdisjoint(kinds_of(data)):
        return json_text(value)
    return str(int(data)) if isinstance(data, float) and "number" not in types else written
