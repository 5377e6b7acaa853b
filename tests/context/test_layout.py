"""Spans of a whole text, and the pieces that lead from one choice of chunks to another."""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.context.config import RECOMPUTE, ContextConfig
from outrider.context.layout import pieces_between, selected_prompt, spans_of
from outrider.core.types import Fresh, Kept, LongContext, Passage, Prompt

SUFFIX = ContextConfig(recompute="suffix")
NEW_ONLY = ContextConfig(recompute="new_only")


def context_of(sizes: list[int], start: int) -> LongContext:
    place, chunks = start, []
    for size in sizes:
        chunks.append(Passage("", tuple(range(place, place + size))))
        place += size
    return LongContext(start=start, chunks=tuple(chunks), query=Passage("", ()))


def text_after(pieces, old_text):
    """What the pieces spell, and at which places; ids are places in these tests."""
    out = []
    for piece in pieces:
        if isinstance(piece, Kept):
            out += old_text[piece.start : piece.stop]
        else:
            assert piece.positions is None or piece.positions == piece.token_ids
            out += piece.token_ids
    return out


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=6)
CHOICES = st.sets(st.integers(0, 5))
SHARES = st.floats(0, 1)


def swap_of(sizes, start, written, before, after):
    """Spans before and after, and the length of the whole text."""
    context = context_of(sizes, start)
    length = context.starts[-1] + written
    old, new = (
        spans_of(context, sorted(c for c in chosen if c < len(sizes)), length)
        for chosen in (before, after)
    )
    return old, new, length


@given(SIZES, st.integers(0, 3), st.integers(1, 5), CHOICES, CHOICES, SHARES, st.booleans())
def test_pieces_make_up_the_new_text(sizes, start, written, before, after, share, compact):
    old, new, length = swap_of(sizes, start, written, before, after)
    old_text = list(chain.from_iterable(old))
    for mode in RECOMPUTE:
        config = ContextConfig(recompute=mode, recompute_share=share)
        pieces = pieces_between(old, new, range(length), config, compact=compact)
        assert text_after(pieces, old_text) == list(chain.from_iterable(new))
        kept = [piece for piece in pieces if isinstance(piece, Kept)]
        assert all(a.stop <= b.start for a, b in pairwise(kept))
        if mode == "suffix":
            assert [type(p) for p in pieces] in ([Kept, Fresh], [Kept], [Fresh])
            assert not kept or kept[0].start == 0


@given(SIZES, st.integers(0, 3), st.integers(1, 5), CHOICES, CHOICES, SHARES)
def test_partial_reads_no_more_than_its_share(sizes, start, written, before, after, share):
    old, new, length = swap_of(sizes, start, written, before, after)
    partial = ContextConfig(recompute="partial", recompute_share=share)
    only, some, everything = (
        sum(len(p.token_ids) for p in pieces if isinstance(p, Fresh))
        for pieces in (
            pieces_between(old, new, range(length), config, compact=False)
            for config in (NEW_ONLY, partial, SUFFIX)
        )
    )
    assert only <= some <= only + share * (everything - only) + 1e-9


def test_a_swap_by_hand():
    context = context_of([3, 3, 3], start=1)
    old, new = spans_of(context, [0, 2], 12), spans_of(context, [0, 1], 12)
    assert pieces_between(old, new, range(12), SUFFIX, compact=False) == (
        Kept(0, 4),
        Fresh((4, 5, 6, 10, 11), (4, 5, 6, 10, 11)),
    )
    assert pieces_between(old, new, range(12), NEW_ONLY, compact=False) == (
        Kept(0, 4),
        Fresh((4, 5, 6), (4, 5, 6)),
        Kept(7, 9),
    )
    half = ContextConfig(recompute="partial", recompute_share=0.5)
    assert pieces_between(old, new, range(12), half, compact=False) == (
        Kept(0, 4),
        Fresh((4, 5, 6, 10), (4, 5, 6, 10)),
        Kept(8, 9),
    )


@pytest.mark.parametrize("compact", [False, True])
def test_a_selected_prompt_keeps_its_places_unless_compact(compact):
    prompt = Prompt(token_ids=tuple(range(10, 22)), context=context_of([3, 3, 3], start=1))
    spans = spans_of(prompt.context, [1], len(prompt))
    part = selected_prompt(prompt, spans, compact=compact)
    assert part.token_ids == (10, 14, 15, 16, 20, 21)
    assert part.positions == (None if compact else (0, 4, 5, 6, 10, 11))
    assert part.context is None
