"""Texts with gaps, and where words of terminals may lie in them."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from outrider.constraints.cfg.terminal import States, Terminal

_BEGIN: States = frozenset((0,))


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text of which some parts are missing.

    Attributes:
        text: the known bytes.
        gaps: the places, ascending, between 0 and `len(text)`, where any bytes may stand, or none.
    """

    text: bytes
    gaps: tuple[int, ...] = ()

    @classmethod
    def of(cls, runs: Iterable[bytes]) -> "Pattern":
        """Return the text of some runs with a gap between each two."""
        text, gaps = b"", set[int]()
        for count, run in enumerate(runs):
            if count:
                gaps.add(len(text))
            text += run
        return cls(text, tuple(sorted(gaps)))

    def filled(self, fills: dict[int, bytes]) -> bytes:
        """Return the text with bytes in its gaps."""
        parts, place = list[bytes](), 0
        for gap in self.gaps:
            parts += [self.text[place:gap], fills.get(gap, b"")]
            place = gap
        return b"".join([*parts, self.text[place:]])


@dataclass(slots=True)
class Lexing:
    """The automaton over terminals of one pattern, one step at a time.

    Its states are the places of the text. A gap is one place, with a step of each terminal to
    itself: where the run before it ends, and where the run behind it begins. A word may begin in a
    run, lie in gaps and cross runs, and end in another run or a gap.

    Attributes:
        pattern: the text.
        terminals: the terminals, by number.
    """

    pattern: Pattern
    terminals: tuple[Terminal, ...]
    _known: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def ends(self, place: int, terminal: int) -> tuple[int, ...]:
        """Return the places where a word of a terminal that begins at `place` may end."""
        key = place, terminal
        if (found := self._known.get(key)) is None:
            found = self._known[key] = self._ends(place, self.terminals[terminal])
        return found

    def _ends(self, place: int, terminal: Terminal) -> tuple[int, ...]:
        text, gaps = self.pattern.text, self.pattern.gaps
        states, found = _BEGIN, dict[int, None]()
        at = bisect_left(gaps, place)
        if at < len(gaps) and gaps[at] == place:
            found[place] = None
            states = terminal.reached(states)
            at += 1
        while True:
            stop = gaps[at] if at < len(gaps) else len(text)
            counts, states = terminal.read(states, text[place:stop])
            for count in counts:
                found[place + count] = None
            if not states or at >= len(gaps):
                return tuple(found)
            found[stop] = None
            states = terminal.reached(states)
            place, at = stop, at + 1
