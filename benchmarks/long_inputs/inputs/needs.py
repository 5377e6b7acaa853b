"""Which chunks must be read when, and whether they were."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from outrider.core.types import Passage

Span = tuple[int, int]
"""First character, and the one after the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """Something in the text that is needed while something is written.

    Attributes:
        spans: where it stands in the text.
        begin: character of the written text from which on it is needed.
        end: character up to which it is.
        looks: how many decisions a selection has to find it: 0 for what the instruction
            names, 2 for what the writing turns to.
    """

    spans: tuple[Span, ...]
    begin: int = 0
    end: int
    decisions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One long input, one instruction, and what is forced to be written.

    Attributes:
        name: unlike that of any other case.
        task: what it is reported under.
        document: its input; several cases may have the same.
        text: the input.
        asked: the instruction.
        written: the forced continuation.
        wants: what is needed.
    """

    name: str
    task: str
    document: str
    text: str
    asked: str
    written: str
    wants: tuple[Want, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """A want in chunks and tokens: `chunks` are read after the decisions `first` to `last`."""

    chunks: frozenset[int]
    first: int
    last: int


def chunks_of(spans: Sequence[Span], chunks: Sequence[Passage]) -> frozenset[int]:
    """The chunks that hold any character of the spans."""
    starts = list(accumulate((len(chunk.text) for chunk in chunks), initial=0))
    found: set[int] = set()
    for start, stop in spans:
        found.update(range(bisect_right(starts, start) - 1, bisect_right(starts, stop - 1)))
    return frozenset(found)


def need_of(
    want: Want, chunks: Sequence[Passage], tokens_at: Callable[[int], int], refresh: int
) -> Need:
    """The chunks of a want, and the decisions after which they must be read.

    Decision j (from 1) is made when `j * refresh` tokens are written; it holds while the next
    ones are. Decision 0 is made before the first token. What the writing turns to is needed from
    its last decision on.

    Args:
        want: what is needed.
        chunks: of the text.
        tokens_at: tokens of what is written before a character of it.
        refresh: tokens between two refreshes; 0 for none.
    """
    if not refresh:
        return Need(chunks_of(want.spans, chunks), 0, 0)
    first = tokens_at(want.begin) // refresh + want.decisions
    last = max((tokens_at(want.end) - 1) // refresh, first)
    return Need(chunks_of(want.spans, chunks), first, last)


def length_needed(case: Case, tokens_at: Callable[[int], int], refresh: int) -> int:
    """Tokens of `case.written` to write until every want had its decisions, for this interval."""
    decisions = [
        (tokens_at(w.begin) // refresh + w.decisions) * refresh for w in case.wants if refresh
    ]
    ends = [tokens_at(want.end) for want in case.wants if not want.decisions]
    return max([*decisions, *ends], default=0)


def read(need: Need, chosen: Sequence[Sequence[int]]) -> frozenset[int]:
    """The needed chunks that were read all the time. `chosen`: what is read after each look; what
    was read last stays."""
    kept = need.chunks
    for decision in range(need.first, need.last + 1):
        kept &= frozenset(chosen[min(decision, len(chosen) - 1)])
    return kept


def judge(needs: Sequence[Need], chosen: Sequence[Sequence[int]]) -> tuple[bool, float]:
    """Whether all needed chunks were read when they were needed, and the share of them."""
    total = sum(len(need.chunks) for need in needs)
    found = sum(len(read(need, chosen)) for need in needs)
    return found == total, found / total if total else 1.0


def delay(need: Need, begin: int, chosen: Sequence[Sequence[int]]) -> int | None:
    """Looks after the one at `begin` until all chunks of the need were read; None for never."""
    for decision in range(begin, len(chosen)):
        if need.chunks <= set(chosen[decision]):
            return decision - begin
    return None
