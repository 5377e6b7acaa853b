"""Predicates of the text's bytes in place of a grammar: whether a token may follow is asked for one
token at a time, so that anything that can judge a prefix restricts a text."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from outrider.core.checks import Range, shown
from outrider.core.errors import LogitsError, OptionError
from outrider.core.types import IntArray

BytesOf = Callable[[int], bytes]
"""Token -> its bytes in a text; none for tokens that stand for no text."""

_KEPT = 512
"""Prefixes whose answers are kept."""
_FIRST = 32
"""Values that `descending` sorts at first."""
_TAIL = 40
"""Bytes of a text that an error shows."""
_END = -1
"""Stands for all end tokens among the answers after a prefix."""


@dataclass(frozen=True, slots=True)
class Checker:
    """A predicate of what is written. Its functions get the bytes after the prompt, which may end
    in the middle of a character, and must answer by these bytes only.

    Attributes:
        ok: whether a text may begin with these bytes.
        complete: whether these bytes, which `ok` allows, are a whole text.
        name: its name in errors.
        max_checks: tokens that may be refused at one place; then the request ends with an error.

    Raises:
        OptionError: the values do not fit.
    """

    ok: Callable[[bytes], bool]
    complete: Callable[[bytes], bool]
    name: str = "checker"
    max_checks: int = 64

    def __post_init__(self) -> None:
        for name in ("ok", "complete"):
            if not callable(getattr(self, name)):
                raise OptionError(
                    f"{name} of the checker is {shown(getattr(self, name))}",
                    hint="Give a function of bytes that returns true or false",
                )
        Range(1, whole=True).check("max_checks of the checker", self.max_checks)


class TokenTest(Protocol):
    """Which tokens may follow a text, asked for one token at a time."""

    @property
    def calls(self) -> int:
        """How often the predicate was called."""
        ...

    def allows(self, generated: Sequence[int] | IntArray, token: int) -> bool:
        """Whether `token`, which is no end token, may follow the generated tokens."""
        ...

    def complete(self, generated: Sequence[int] | IntArray) -> bool:
        """Whether the text may end after the generated tokens."""
        ...


@dataclass(slots=True)
class Checks:
    """The answers of a checker about the texts of one request and its forks.

    Attributes:
        checker: the predicate.
        bytes_of: the bytes of a token.
        calls: how often the predicate was called.
    """

    checker: Checker
    bytes_of: BytesOf
    calls: int = 0
    _path: list[int] = field(default_factory=list)
    _text: bytes = b""
    _known: OrderedDict[bytes, dict[int, bool]] = field(default_factory=OrderedDict)

    def allows(self, generated: Sequence[int] | IntArray, token: int) -> bool:
        """See `TokenTest.allows`. A token that stands for no text is not allowed."""
        piece = self.bytes_of(token)
        if not piece:
            return False
        text = self.text(generated)
        known = self._answers(text)
        if token not in known:
            known[token] = self._ask(self.checker.ok, text + piece)
        return known[token]

    def complete(self, generated: Sequence[int] | IntArray) -> bool:
        """See `TokenTest.complete`."""
        text = self.text(generated)
        known = self._answers(text)
        if _END not in known:
            known[_END] = self._ask(self.checker.complete, text)
        return known[_END]

    def first(
        self, tokens: Iterator[int], generated: Sequence[int] | IntArray, ends: frozenset[int]
    ) -> int:
        """Return the first of `tokens` that may follow, `ends` being end tokens.

        Raises:
            LogitsError: there is none, or `max_checks` of them are refused.
        """
        refused, most = 0, self.checker.max_checks
        for token in tokens:
            if self.complete(generated) if token in ends else self.allows(generated, token):
                return token
            refused += 1
            if refused == most:
                break
        count = f"{refused} tokens" if refused == most else "every token"
        raise LogitsError(
            f"checker {self.checker.name!r} refuses {count} after {self.text(generated)[-_TAIL:]}",
            hint="Raise its max_checks, or let it allow more",
        )

    def text(self, generated: Sequence[int] | IntArray) -> bytes:
        """Return the bytes of the generated tokens."""
        path = self._path
        tokens = generated if isinstance(generated, list) else [int(t) for t in generated]
        if tokens == path:
            return self._text
        if tokens[: len(path)] != path:
            path, self._text = [], b""
        self._text += b"".join(map(self.bytes_of, tokens[len(path) :]))
        self._path = list(tokens)
        return self._text

    def _answers(self, text: bytes) -> dict[int, bool]:
        known = self._known.setdefault(text, {})
        self._known.move_to_end(text)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return known

    def _ask(self, predicate: Callable[[bytes], bool], text: bytes) -> bool:
        self.calls += 1
        try:
            return bool(predicate(text))
        except Exception as error:  # any function may fail, in any way
            raise LogitsError(
                f"checker {self.checker.name!r} failed: {type(error).__name__}: {error}",
                hint="Let it return true or false for any bytes",
            ) from error


def descending(values: NDArray[np.floating]) -> Iterator[int]:
    """Yield the places of `values` from the largest to the smallest, equal ones in their order.

    Only as much is sorted as is read: a full sort of a vocabulary takes milliseconds.
    """
    done, size = 0, _FIRST
    while done < len(values):
        if size < len(values):
            least = np.partition(values, len(values) - size)[len(values) - size]
            found = np.flatnonzero(values >= least)
        else:
            found = np.arange(len(values))
        order = found[np.argsort(-values[found], kind="stable")]
        yield from order[done:].tolist()
        done, size = len(order), 8 * size
