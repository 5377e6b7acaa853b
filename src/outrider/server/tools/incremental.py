"""Parsers that read a text in one go, although it arrives in pieces.

A parser is a generator: it reads on where the text has arrived, and yields where it needs more.
"""

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from typing import ClassVar, TypeVar

from outrider.constraints.tools import CallForm
from outrider.server.tools.calls import (
    CallBegin,
    CallEnd,
    CallText,
    FunctionCall,
    Part,
    Schemas,
    new_call_id,
)
from outrider.server.tools.reading import JsonScan, is_object, overlap, read_call

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Reads a part of the text, and returns what it found."""

NO_SCHEMAS: Schemas = {}

_WORD = re.compile(r"[a-zA-Z0-9_.-]*")
_HEAD = re.compile(
    r'\{\s*"name"\s*:\s*"([a-zA-Z0-9_.-]{1,128})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
"""Matches an object up to its arguments."""
_LONGEST_HEAD = 512
"""Characters in which the arguments must begin, for a call that is returned in parts."""


class Incremental(ABC):
    """The base of parsers: a subclass reads the whole text in `_read`.

    What was read stays in `_text`, up to `_at`, until it is used, so that it can be returned as
    text if it turns out to be no call.

    Attributes:
        marks: texts of the format that may be special tokens; the parser must see them.
        control: those of them that are never a part of the answer.
    """

    marks: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[tuple[str, ...]] = ()

    def __init__(self, schemas: Schemas = NO_SCHEMAS) -> None:
        """Begin a text; `schemas` describes the arguments of the functions, as far as known."""
        self._schemas = schemas
        self._text, self._at = "", 0
        self._ended = self._called = False
        self._found: list[Part] = []
        self._steps = self._read()

    def feed(self, text: str) -> list[Part]:
        """Add text; return the parts that are complete."""
        self._text += text
        next(self._steps, None)
        return self._taken()

    def close(self) -> list[Part]:
        """End the text; return what is left."""
        self._ended = True
        deque(self._steps, maxlen=0)
        return self._taken()

    def reasons_at(self, place: int) -> bool:
        """Return false: a parser of calls knows no reasoning."""
        return False

    @classmethod
    @abstractmethod
    def form(cls, template: str) -> CallForm:
        """Return how calls are written.

        Args:
            template: the chat template, which shows it where there are several forms.
        """

    @abstractmethod
    def _read(self) -> Steps[None]:
        """Read the text to its end."""

    def _new_id(self) -> str:
        """Return the identifier of a call."""
        return new_call_id()

    def _taken(self) -> list[Part]:
        found, self._found = self._found, []
        return found

    # -- text -------------------------------------------------------------------------------

    def _plain(self, *marks: str) -> Steps[str | None]:
        """Return text as it arrives, up to one of the marks; read the mark and return it, or None
        at the end. White space before the mark is kept with it."""
        while True:
            at, mark = first(self._text, marks)
            end = at if mark is not None or self._ended else at - overlap(self._text, marks)
            ready = self._text[:end]
            ready = ready.rstrip() if mark is not None or not self._ended else ready
            self._say(ready)
            self._text = self._text[len(ready) :]
            if mark is not None:
                self._at = at - len(ready) + len(mark)
                return mark
            if self._ended:
                return None
            yield

    def _say(self, text: str) -> None:
        """Return text; white space between calls, and after them, is dropped."""
        if text and not (self._called and not text.strip()):
            self._found.append(text)

    def _used(self) -> str:
        """Forget what was read; return it."""
        used, self._text, self._at = self._text[: self._at], self._text[self._at :], 0
        return used

    # -- reading on -------------------------------------------------------------------------

    def _space(self) -> Steps[None]:
        """Read white space."""
        while True:
            left = self._text[self._at :].lstrip()
            self._at = len(self._text) - len(left)
            if left or self._ended:
                return
            yield

    def _peek(self, *marks: str) -> Steps[str | None]:
        """Return the first of the marks with which the text goes on, or None."""
        while True:
            left = self._text[self._at :]
            waits = False
            for mark in marks:
                if left.startswith(mark):
                    return mark
                if waits := not self._ended and mark.startswith(left):
                    break
            if not waits:
                return None
            yield

    def _take(self, *marks: str) -> Steps[str | None]:
        """Read one of the marks; return it, or None."""
        mark = yield from self._peek(*marks)
        self._at += len(mark or "")
        return mark

    def _word(self) -> Steps[str]:
        """Read what may be the name of a function; return it, or an empty text."""
        while True:
            found = _WORD.match(self._text, self._at)
            if found is not None and (found.end() < len(self._text) or self._ended):
                self._at = found.end()
                return found.group()
            yield

    def _until(self, *marks: str) -> Steps[str | None]:
        """Read up to the end of the next mark; return it, or None if the text ends before."""
        while True:
            at, mark = first(self._text, marks, self._at)
            if mark is not None:
                self._at = at + len(mark)
                return mark
            if self._ended:
                self._at = at
                return None
            self._at = max(self._at, at - max(map(len, marks)) + 1)
            yield

    def _all(self) -> Steps[None]:
        """Wait for the end of the text, and read it."""
        while not self._ended:
            yield
        self._at = len(self._text)

    # -- calls ------------------------------------------------------------------------------

    def _begin(self, name: str, id: str | None = None) -> None:
        """Return the begin of a call; what was read is used."""
        self._used()
        self._called = True
        self._found.append(CallBegin(name, id or self._new_id()))

    def _call(self, call: FunctionCall) -> None:
        """Return a whole call; what was read is used."""
        self._used()
        self._called = True
        self._found.append(FunctionCall(call.name, call.arguments, self._new_id()))

    def _arguments(self, *stops: str) -> Steps[None]:
        """Return the object with which the text goes on as arguments, part by part, and the end of
        the call. A mark outside a string ends the call as well."""
        scan, whole = JsonScan(stops), ""
        while True:
            end = scan.run(self._text, 0, self._ended)
            piece, self._text = self._text[:end], self._text[end:]
            if piece:
                self._found.append(CallText(piece))
                whole += piece
            if scan.done or self._ended:
                break
            yield
        self._found.append(CallEnd(broken=not is_object(whole)))

    def _object(self, *stops: str) -> Steps[bool]:
        """Read an object that describes a call; return whether it does.

        The arguments are returned part by part if they follow the name, and at once otherwise. A
        mark outside a string ends the object as well.
        """
        scan, scanned = JsonScan(stops), self._at
        while True:
            head = _HEAD.match(self._text[self._at : self._at + _LONGEST_HEAD])
            if head is not None:
                self._at += head.end()
                self._begin(head.group(1))
                yield from self._arguments(*stops)
                yield from self._skip(JsonScan(stops, depth=1))
                return True
            scanned = scan.run(self._text, scanned, self._ended)
            if scan.done or self._ended:
                call = read_call(self._text[self._at : scanned])
                self._at = scanned
                if call is not None:
                    self._call(call)
                return call is not None
            yield

    def _skip(self, scan: JsonScan) -> Steps[None]:
        """Drop the rest of an object."""
        while True:
            self._text = self._text[scan.run(self._text, 0, self._ended) :]
            if scan.done or self._ended:
                return
            yield


def first(text: str, marks: tuple[str, ...], start: int = 0) -> tuple[int, str | None]:
    """Return the first of the marks in a text and its place; the end of the text if there is
    none."""
    found = [(at, mark) for mark in marks if (at := text.find(mark, start)) >= 0]
    return min(found) if found else (len(text), None)
