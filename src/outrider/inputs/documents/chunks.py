"""Splits a long text into chunks at sentence ends, without loss or overlap."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from outrider.core.types import Passage
from outrider.inputs.documents.borders import borders

SLACK = 0.15
"""Largest distance of a cut at a sentence end from its equal-share place, as a share of a chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One tokenized text, such as a file.

    Attributes:
        name: name of its chunks; empty for an input without a name.
        text: the whole text; empty without a tokenizer.
        token_ids: ids of the whole text, tokenized once.
        ends: for each token the index in `text` of the character after it, never descending. Tokens
            that share one character have equal ends. Not used without a text.
    """

    name: str = ""
    text: str
    token_ids: Sequence[int]
    ends: Sequence[int] = ()


def cut(text: str, token_ids: Sequence[int], ends: Sequence[int], size: int) -> tuple[Passage, ...]:
    """Split into chunks of about `size` tokens; joined chunks equal `text` and `token_ids`.

    A cut is at the nearest sentence end within 15 % of `size`; without one, at a line break, else
    at a space, else between any two characters. Chunks have nearly equal shares, so that none is
    above 1.15 `size` (unless one character takes more tokens) and the last is not tiny. Time is
    linear in the text. Without a text, chunk sizes differ by at most one token. Without tokens
    there are no chunks.

    Args:
        text: the whole text, or empty.
        token_ids: ids of the whole text.
        ends: where each token ends in `text`, see `Source.ends`.
        size: tokens of a chunk, at least 1.

    Raises:
        ValueError: `ends` and tokens differ in number, or `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; a chunk needs at least 1 token")
    if text and len(ends) != len(token_ids):
        raise ValueError(f"{len(token_ids)} tokens, but {len(ends)} ends of tokens")
    if not text:
        stops = _stops(len(token_ids), size, lambda _: 0)
        return tuple(Passage("", tuple(token_ids[a:b])) for a, b in _spans(stops))
    border = borders(text)
    stops = _stops(len(ends), size, lambda at: _worth(border, ends, at))
    places = [0, *(ends[stop - 1] for stop in stops[:-1]), len(text)]
    return tuple(
        Passage(text[places[i] : places[i + 1]], tuple(token_ids[a:b]))
        for i, (a, b) in enumerate(_spans(stops))
    )


def cut_sources(
    sources: Sequence[Source], size: int
) -> tuple[tuple[Passage, ...], tuple[str, ...]]:
    """Split several texts into chunks; return all chunks and the name of each.

    No chunk crosses from one text to the next, so a short file is a short chunk.
    """
    chunks: list[Passage] = []
    names: list[str] = []
    for source in sources:
        found = cut(source.text, source.token_ids, source.ends, size)
        chunks += found
        names += [source.name] * len(found)
    return tuple(chunks), tuple(names)


def windows(passage: Passage, size: int) -> tuple[Passage, ...]:
    """Split the passage into pieces of about `size` tokens at sentence ends.

    The ids of each piece are estimated as if all tokens were equally long, so a few ids at a border
    can be in the wrong piece. Lossless, like `cut`.
    """
    text, ids = passage.text, passage.token_ids
    if len(ids) <= size or not text:
        return cut("", ids, (), size) if len(ids) > size else (passage,)
    border = borders(text)
    each = max(size * len(text) // len(ids), 1)
    stops = _stops(len(text), each, lambda at: border[at])
    return tuple(
        Passage(text[a:b], ids[_share(a, text, ids) : _share(b, text, ids)])
        for a, b in _spans(stops)
    )


def _share(at: int, text: str, ids: Sequence[int]) -> int:
    return round(at * len(ids) / len(text))


def _spans(stops: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise((0, *stops)))


def _worth(border: bytes | bytearray, ends: Sequence[int], at: int) -> int:
    """Rate a cut before token `at`; -1 within a character."""
    return border[ends[at - 1]] if ends[at - 1] < ends[at] else -1


def _stops(length: int, size: int, worth: Callable[[int], int]) -> list[int]:
    """Return the ends of chunks: the best places near equal shares of the remaining text."""
    stops: list[int] = []
    start = 0
    while start < length:
        start = _next(start, length, size, worth)
        stops.append(start)
    return stops


def _next(start: int, length: int, size: int, worth: Callable[[int], int]) -> int:
    left = length - start
    most = max(int(size * (1 + SLACK)), 1)
    chunks = max(int(left / size + 0.5), math.ceil(left / most))
    if chunks == 1:
        return length
    share = left / chunks
    low = start + max(round(share - SLACK * size), 1)
    high = start + max(min(round(share + SLACK * size), most), 1)
    # The best rating, then the nearest to an equal share, then the first.
    best = max(
        range(low, high + 1), key=lambda at: (worth(at), -abs(at - start - share), -at), default=low
    )
    while best < length and worth(best) < 0:  # one character that takes many tokens
        best += 1
    return best
