"""Reads texts with parsers of calls, in pieces of any size."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import strategies as st

from outrider.server.tools.calls import (
    CallBegin,
    CallEnd,
    CallParser,
    CallText,
    FunctionCall,
    Part,
    Thought,
)

BROKEN = "broken"


def joined(parts: Iterable[Part]) -> list[Any]:
    """Parts, with neighbouring texts joined: text, `Thought`, and `[name, arguments]` of calls.

    Broken calls have a third entry. Identifiers are random, and left out.
    """
    found: list[Any] = []
    is_open = False
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, CallText | CallEnd):
            assert is_open
            if isinstance(part, CallText):
                found[-1][1] += part.text
            else:
                is_open = False
                found[-1] += [BROKEN] if part.broken else []
            continue
        assert not is_open
        if isinstance(part, CallBegin):
            is_open = True
            found.append([part.name, ""])
        elif isinstance(part, FunctionCall):
            found.append([part.name, part.arguments])
        elif isinstance(part, str) and isinstance(last, str):
            found[-1] += part
        elif isinstance(part, Thought) and isinstance(last, Thought):
            found[-1] = Thought(last.text + part.text)
        else:
            found.append(part)
    assert not is_open
    return found


def read(parser: CallParser, pieces: Iterable[str]) -> list[Any]:
    """What a parser finds in a text that arrives in pieces."""
    return joined([*(p for piece in pieces for p in parser.feed(piece)), *parser.close()])


def decoded(found: Sequence[Any]) -> list[Any]:
    """What was found; arguments of whole calls as values, and calls as tuples."""
    return [
        tuple(one)
        if isinstance(one, list) and one[-1] is BROKEN
        else (one[0], json.loads(one[1]))
        if isinstance(one, list)
        else one
        for one in found
    ]


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """A text in pieces."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
