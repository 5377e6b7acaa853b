"""How much a batch drafts: the number of drafted tokens with the most expected tokens per second.

Each sequence offers its drafted tokens with the chance that each is kept. The offers of all
sequences are merged in descending order of chance. For each number m of tokens from the front, the
round is expected to write `sequences + sum of chances` tokens in `T(sequences, sequences + m)`
seconds; the best m is taken (SmartSpec, arXiv 2406.14066). Chances descend along each draft, so the
front holds a beginning of each draft. With more sequences a further row costs more and gains no
more, so that m falls to 0 by itself.
"""

from collections.abc import Callable, Sequence
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
    plain = count / seconds
    best, speed, written = 0, plain * (1.0 + margin), float(count)
    merged = list(merge(*([(-chance, i) for chance in own] for i, own in enumerate(offers))))
    for number, (negative, _) in enumerate(merged, start=1):
        written -= negative
        expected = written / (surface.seconds(rows + number, count, context) + drafting)
        if expected > speed:
            speed, best = expected, number
    depths = [0] * count
    for _, i in merged[:best]:
        depths[i] += 1
    return Choice(depths=tuple(depths), speed=speed if best else plain, plain=plain)


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
    _chosen: dict[str, int] = field(default_factory=dict[str, int])
    _with_others: bool = False
    _probe_at: int = FIRST_PROBE
    _wait: int = field(default=FIRST_PROBE)

    def depths(
        self,
        names: Sequence[str],
        offers: Callable[[], Sequence[Sequence[float]]],
        *,
        context: int = 0,
        other_rows: int = 0,
        drafting: float = 0.0,
    ) -> tuple[int, ...]:
        """Return the largest depth of the draft of each sequence in the next round.

        Args:
            names: one for each sequence. A decision stands for some rounds, unless a sequence joins
                or leaves while others draft, or while the batch shrinks.
            offers: returns those of `best_depths`; called for a new decision only, since offers
                take time.
            context: see `best_depths`.
            other_rows: see `best_depths`.
            drafting: see `best_depths`.
        """
        self._round += 1
        if self._round % PLAIN_EVERY == 0:
            return (0,) * len(names)
        if self._round < self._until and self._stands(names, other_rows > 0):
            return tuple(self._chosen.get(name, 0) for name in names)
        offered = offers()
        choice = best_depths(
            offered,
            self.surface,
            context=context,
            other_rows=other_rows,
            drafting=drafting,
            margin=self.margin,
        )
        self._chosen = dict(zip(names, choice.depths, strict=True))
        self._until, self._with_others = self._round + STANDS, other_rows > 0
        if any(choice.depths):
            self._probe_at, self._wait = self._round + FIRST_PROBE, FIRST_PROBE
        elif self._round >= self._probe_at and any(offered):
            return self._probe(offered)
        return choice.depths

    def _stands(self, names: Sequence[str], others: bool) -> bool:
        """Whether the last decision still fits: the sequences are the same, or none drafts and
        there are no fewer of them, so that drafting pays no more than before."""
        if others == self._with_others and list(self._chosen) == list(names):
            return True
        return not any(self._chosen.values()) and len(names) >= len(self._chosen) > 0

    def _probe(self, offers: Sequence[Sequence[float]]) -> tuple[int, ...]:
        """Try one draft of the sequence that offers most, in one round; wait longer next time."""
        self._wait = min(2 * self._wait, LAST_PROBE)
        self._probe_at = self._round + self._wait
        best = max(range(len(offers)), key=lambda i: sum(offers[i]))
        return tuple(len(own) if i == best else 0 for i, own in enumerate(offers))

    def note(self, seconds: float, forward: Forward) -> None:
        """Record how long a forward took."""
        self.surface = self.surface.refreshed(seconds, forward)
