"""How much a batch drafts: the number of drafted tokens with the most expected tokens per second.

Each sequence offers its drafted tokens with the chance that each is kept. The offers of all
sequences are merged in descending order of chance. For each number m of tokens from the front, the
round is expected to write `sequences + sum of chances` tokens in `T(sequences, sequences + m)`
seconds; the best m is taken (SmartSpec, arXiv 2406.14066). Chances descend along each draft, so the
front holds a beginning of each draft. With more sequences a further row costs more and gains no
more, so that m falls to 0 by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import merge

from outrider.policies.surface import CostSurface, Forward

MARGIN = 0.05
"""Drafts must be expected to raise the throughput by this share."""
STANDS = 8
"""Rounds for which a decision stands, unless sequences join or leave."""
PLAIN_EVERY = 64
"""One of this many rounds is undrafted, so that the cost of undrafted rounds is known."""
FIRST_PROBE, LAST_PROBE = 16, 1024
"""Rounds without drafts until drafts are tried again: at first, and at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How many tokens each sequence drafts, and what is expected.

    Attributes:
        depths: tokens of each sequence.
        speed: expected tokens per second.
        plain: expected tokens per second without drafts.
    """

    depths: tuple[int, ...]
    speed: float
    plain: float


def best_depths(
    offers: Sequence[Sequence[float]],
    surface: CostSurface,
    *,
    context: int = 0,
    other_rows: int = 0,
    drafting: float = 0.0,
    margin: float = MARGIN,
) -> Choice:
    """Return the number of drafted tokens of each sequence with the most expected tokens per
    second.

    Args:
        offers: for each sequence, the chance that each drafted token is kept, never increasing.
        surface: the seconds of a forward.
        context: tokens of all texts together.
        other_rows: rows that the forward reads for prompts.
        drafting: seconds of drafting for one round, if anything is drafted.
        margin: share by which the throughput must exceed that of undrafted rounds.
    """
    count = len(offers)
    rows = count + other_rows
    seconds = surface.seconds(rows, count, context)
    plain = count / seconds if seconds else 0.0
    depths, best = [0] * count, [0] * count
    speed, written = plain * (1.0 + margin), float(count)
    merged = merge(*([(-chance, i) for chance in own] for i, own in enumerate(offers)))
    for number, (negative, i) in enumerate(merged, start=1):
        depths[i] += 1
        written -= negative
        expected = written / (surface.seconds(rows + number, count, context) + drafting)
        if expected > speed:
            speed, best = expected, list(depths)
    return Choice(depths=tuple(best), speed=speed if any(best) else plain, plain=plain)


@dataclass(slots=True, kw_only=True)
class Goodput:
    """Chooses depths for the rounds of a session whose sequences come and go.

    Attributes:
        surface: the seconds of a forward; it follows the paces seen.
        margin: see `best_depths`.
    """

    surface: CostSurface
    margin: float = MARGIN
    _round: int = 0
    _until: int = 0
    _known: tuple[str, ...] = ()
    _with_others: bool = False
    _chosen: tuple[int, ...] = ()
    _probe_at: int = FIRST_PROBE
    _wait: int = field(default=FIRST_PROBE)

    def depths(
        self,
        names: Sequence[str],
        offers: Sequence[Sequence[float]],
        *,
        context: int = 0,
        other_rows: int = 0,
        drafting: float = 0.0,
    ) -> tuple[int, ...]:
        """Return the largest depth of the draft of each sequence in the next round.

        Args:
            names: one for each sequence; a decision stands as long as they are the same.
            offers: see `best_depths`.
            context: see `best_depths`.
            other_rows: see `best_depths`.
            drafting: see `best_depths`.
        """
        self._round += 1
        if self._round % PLAIN_EVERY == 0:
            return (0,) * len(names)
        known, others = tuple(names), other_rows > 0
        same = known == self._known and others == self._with_others
        if same and self._round < self._until:
            return self._chosen
        choice = best_depths(
            offers,
            self.surface,
            context=context,
            other_rows=other_rows,
            drafting=drafting,
            margin=self.margin,
        )
        self._known, self._with_others = known, others
        self._until, self._chosen = self._round + STANDS, choice.depths
        if any(choice.depths):
            self._probe_at, self._wait = self._round + FIRST_PROBE, FIRST_PROBE
        elif self._round >= self._probe_at and any(offers):
            return self._probe(offers)
        return choice.depths

    def _probe(self, offers: Sequence[Sequence[float]]) -> tuple[int, ...]:
        """Try one draft of the sequence that offers most, in one round; wait longer next time."""
        self._wait = min(2 * self._wait, LAST_PROBE)
        self._probe_at = self._round + self._wait
        best = max(range(len(offers)), key=lambda i: sum(offers[i]))
        return tuple(len(own) if i == best else 0 for i, own in enumerate(offers))

    def note(self, seconds: float, forward: Forward) -> None:
        """Record how long a forward took."""
        self.surface = self.surface.refreshed(seconds, forward)
