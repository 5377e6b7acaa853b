"""Texts made of parts of a longer one, and the steps from one such text to another.

A token is identified by its *place* in the whole text: the prompt, then the generated tokens. A
model reads a list of ascending spans of places: the head, the chosen chunks, and the rest.
"""

from collections.abc import Sequence
from itertools import chain, groupby
from math import floor

from outrider.context.config import ContextConfig
from outrider.core.types import Fresh, Kept, LongContext, Piece, Prompt

Spans = tuple[range, ...]


def spans_of(context: LongContext, chosen: Sequence[int], length: int) -> Spans:
    """Return the places to read of a whole text of `length` tokens, given the chosen chunks."""
    starts = context.starts
    chunks = (range(starts[i], starts[i + 1]) for i in chosen)
    spans = (range(starts[0]), *chunks, range(starts[-1], length))
    return tuple(span for span in spans if len(span))


def selected_prompt(prompt: Prompt, spans: Spans, *, compact: bool) -> Prompt:
    """Return the prompt made of the tokens in `spans`, at their places unless `compact`."""
    places = tuple(chain.from_iterable(spans))
    ids = prompt.token_ids
    return Prompt(
        token_ids=tuple(ids[place] for place in places), positions=None if compact else places
    )


def pieces_between(
    old: Spans, new: Spans, whole: Sequence[int], config: ContextConfig, *, compact: bool
) -> tuple[Piece, ...]:
    """Plan how a cache changes from `old` to `new`: which rows stay, which tokens are read.

    Args:
        old: the current spans.
        new: the wanted spans.
        whole: ids of the whole text.
        config: `recompute`, and the share for `partial`.
        compact: whether places are renumbered in the new text.

    `suffix` reads everything after the first change. `new_only` reads only tokens without rows.
    `partial` reads in addition a share of the tokens after the first change, the nearest first.
    """
    offsets = _offsets(old)
    first = _first_change(old, new)
    behind = sum(len(span) for span in new if span.start >= first and span.start in offsets)
    again = {
        "suffix": behind,
        "new_only": 0,
        "partial": floor(config.recompute_share * behind),
    }[config.recompute_for(compact)]
    pieces: list[Piece] = []
    for span in new:
        offset = offsets.get(span.start)
        if offset is None:
            pieces.append(_fresh(span, whole, compact=compact))
            continue
        stale = 0 if span.start < first else min(len(span), again)
        again -= stale
        if stale:
            pieces.append(_fresh(span[:stale], whole, compact=compact))
        if stale < len(span):
            pieces.append(Kept(offset + stale, offset + len(span)))
    return _merged(pieces)


def _offsets(spans: Spans) -> dict[int, int]:
    """Map the first place of each span to its index in the text."""
    found, offset = {}, 0
    for span in spans:
        found[span.start] = offset
        offset += len(span)
    return found


def _first_change(old: Spans, new: Spans) -> int:
    """Return the first place that only one of the two contains."""
    changed = {span.start for span in old} ^ {span.start for span in new}
    return min(changed, default=new[-1].stop)


def _fresh(span: range, whole: Sequence[int], *, compact: bool) -> Fresh:
    ids = tuple(whole[place] for place in span)
    return Fresh(ids, None if compact else tuple(span))


def _merged(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Merge adjacent pieces of the same text."""
    out: list[Piece] = []
    for is_fresh, group in groupby(pieces, lambda piece: isinstance(piece, Fresh)):
        if is_fresh:
            out.append(_joined([piece for piece in group if isinstance(piece, Fresh)]))
            continue
        for piece in group:
            last = out[-1] if out else None
            if isinstance(last, Kept) and isinstance(piece, Kept) and last.stop == piece.start:
                out[-1] = Kept(last.start, piece.stop)
            else:
                out.append(piece)
    return tuple(out)


def _joined(pieces: Sequence[Fresh]) -> Fresh:
    """Join several pieces into one, in time linear in their tokens."""
    ids = tuple(chain.from_iterable(piece.token_ids for piece in pieces))
    places = [piece.positions for piece in pieces if piece.positions is not None]
    return Fresh(ids, tuple(chain.from_iterable(places)) if places else None)
