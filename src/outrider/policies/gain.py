"""Draft as long as it is expected to pay: tokens per second from measured costs and acceptance.

A round that drafts k tokens, each kept with chance a when the one before it was, is expected to
write E(k) = (1 - a^(k+1)) / (1 - a) tokens (Leviathan et al. 2023) in draft(k) + verify(k + 1) +
overhead seconds. The best k may be 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from outrider.counters import Counters, Pace, Tally
from outrider.errors import OptionError
from outrider.policies.curve import CostCurve
from outrider.types import Budget

_NEVER = Tally()
_BELIEF, _RECALLED = 4, 16
"""Rounds for which it is believed that both kinds have one pace; most rounds that count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One origin of drafts, and what is believed of it before it was tried.

    Attributes:
        name: the `Draft.origin` it is booked under.
        seconds: what drafting one token more takes.
        fixed: what a draft takes beside its tokens, until it is measured in place.
        accept: chance that a token is kept, its parent having been kept.
        weight: tested tokens that this belief counts for, until it fades like them.
        longest: most tokens drafted at once.
        lucky: it drafts only where it happens to find something, and costs nothing elsewhere. It
            is asked before the others, where it promises more than they do.
    """

    name: str
    seconds: float = 0.0
    fixed: float = 0.0
    accept: float = 0.6
    weight: float = 6.0
    longest: int = 16
    lucky: bool = False

    def __post_init__(self) -> None:
        if not (0.0 <= self.accept <= 1.0 and self.weight > 0):
            raise OptionError(
                f"source {self.name!r} has accept {self.accept} and weight {self.weight}",
                hint="Give a chance from 0 to 1 and a weight above 0",
            )
        if min(self.seconds, self.fixed) < 0.0:
            raise OptionError(
                f"source {self.name!r} takes {self.seconds} seconds a token and {self.fixed} a "
                "draft",
                hint="Give times from 0 up",
            )
        if self.longest < 1:
            raise OptionError(f"longest is {self.longest}", hint="Draft at least 1 token")

    def chance(self, tally: Tally) -> float:
        """Tracked acceptance: the belief and the faded counts, weighed."""
        weight = self.weight * tally.belief
        return (self.accept * weight + tally.hits) / (weight + tally.trials)

    def costs(self, tally: Tally) -> tuple[float, float]:
        """Seconds of a draft beside its tokens, and of each token.

        What drafts took in place says how much comes on top of the seconds a token; where they
        took less than those, the tokens are cheaper.
        """
        pace = tally.pace
        if not pace.count:
            return self.fixed, self.seconds
        tokens = self.seconds * pace.size
        if pace.seconds < tokens:
            return 0.0, pace.seconds / pace.size
        return pace.seconds - tokens, self.seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """A draft length and the tokens per second it promises."""

    length: int
    speed: float


def best_length(
    accept: float, draft: tuple[float, float], verify: Sequence[float], longest: int
) -> Plan:
    """The k from 0 to `longest` with the most expected tokens per second; the least, if tied.

    Args:
        accept: chance that a drafted token is kept once its parent was.
        draft: seconds of a draft beside its tokens, and of each token.
        verify: by k, seconds of a round beside drafting; above 0 and never falling.
        longest: largest k; below the length of `verify`.
    """
    fixed, each = draft
    length, speed = 0, 1.0 / verify[0]
    reach = expected = 1.0
    most = 1.0 / (1.0 - accept) if accept < 1.0 else float("inf")
    for k in range(1, longest + 1):
        reach *= accept
        expected += reach
        seconds = fixed + k * each + verify[k]
        if expected > speed * seconds:
            length, speed = k, expected / seconds
        elif most <= speed * seconds:  # not even if all the rest were kept
            break
    return Plan(length, speed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedGain:
    """Asks each source for as many tokens as promise the most tokens per second, or for none.

    It goes by the tallies of one request: how often tokens of each origin were kept and what
    drafting them took, faded with distance and weighed with what was believed before. Of the
    sources that can always draft, the best one alone gets a share; lucky ones get theirs beside
    it, where they promise more. A source that was left out is tried again when as many rounds
    have passed as there were before its newest draft, at least `probe_after` and at most
    `probe_within`; while its trials are kept, every round.

    Its budgets depend on measured times. With `Match` at the outside that changes speed, never
    text. With other rules the text may depend on draft lengths: two runs may differ.

    Attributes:
        verify: seconds of the verifier's forward by rows.
        sources: whose drafts it deals with; it asks for nothing where there are none.
        overhead: seconds of a round beside drafting and the verifier's forward.
        handling: what comes on top in rounds that verify a draft.
        margin: share by which drafting must promise more than not drafting.
        probe_after: rounds after which a source left out is tried again, at the earliest.
        probe_within: the same, at the latest.
        plain_every: of so many rounds one is undrafted, to see what that takes here and now.
    """

    verify: CostCurve
    sources: tuple[Source, ...]
    overhead: float = 1e-4
    handling: float = 0.0
    margin: float = 0.05
    probe_after: int = 8
    probe_within: int = 256
    plain_every: int = 64
    _alone: tuple[float, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise OptionError(f"sources are named {names}", hint="Give each a name of its own")
        if not 1 <= self.probe_after <= self.probe_within:
            raise OptionError(
                f"probes after {self.probe_after} to {self.probe_within} rounds",
                hint="Give 1 <= probe_after <= probe_within",
            )
        object.__setattr__(self, "_alone", self._round_seconds(1))

    @property
    def adaptive(self) -> bool:
        """It goes by what became of earlier drafts."""
        return True

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """A share for each source; the depth is that of the largest."""
        if (counters.rounds + 1) % self.plain_every == 0:
            return Budget(depth=0, nodes=0, shares={source.name: 0 for source in self.sources})
        verify = self._here(counters, batch)
        steady, lucky = self._plans(counters, verify)
        floor = (1.0 + self.margin) / verify[0]
        shares = dict.fromkeys((source.name for source, _ in steady), 0)
        if steady:
            leader, plan = max(steady, key=lambda pair: pair[1].speed)
            probed = [p for p in steady if p[0] is not leader and self._due(p[0], counters)]
            if probed:
                shares[probed[0][0].name] = max(probed[0][1].length, 1)
            elif plan.speed >= floor:
                shares[leader.name] = plan.length
            else:
                shares[leader.name] = int(self._due(leader, counters))
            floor = max(floor, plan.speed)
        for source, plan in lucky:
            pays = plan.speed >= floor
            shares[source.name] = plan.length if pays else int(self._due(source, counters))
        deepest = max(shares.values(), default=0)
        return Budget(depth=deepest, nodes=deepest, shares=shares)

    def _plans(
        self, counters: Counters, verify: Sequence[float]
    ) -> tuple[list[tuple[Source, Plan]], list[tuple[Source, Plan]]]:
        """What serves each source best now: those that can always draft, then the lucky ones."""
        steady: list[tuple[Source, Plan]] = []
        lucky: list[tuple[Source, Plan]] = []
        for source in self.sources:
            tally = counters.tallies.get(source.name, _NEVER)
            plan = best_length(source.chance(tally), source.costs(tally), verify, source.longest)
            (lucky if source.lucky else steady).append((source, plan))
        return steady, lucky

    def _here(self, counters: Counters, batch: int) -> Sequence[float]:
        """By draft length, seconds of a round: as measured at first, and at the pace of this text.

        Rounds with and without a draft have a pace each, because a busy machine, or a long text,
        slows wide forwards and narrow ones differently. What was seen of both stands in where one
        was seen little.
        """
        table = self._alone if batch == 1 else self._round_seconds(batch)
        (n, plain), (m, checked) = self._seen(counters.plain), self._seen(counters.checked)
        whole = (n * plain + m * checked) / (n + m) if n + m else 1.0
        plain = (n * plain + _BELIEF * whole) / (n + _BELIEF)
        checked = (m * checked + _BELIEF * whole) / (m + _BELIEF)
        return [table[0] * plain, *(seconds * checked for seconds in table[1:])]

    def _seen(self, pace: Pace) -> tuple[int, float]:
        """How many rounds count, and their seconds / those of the curve."""
        if not (pace.count and pace.seconds):
            return 0, 1.0
        return min(pace.count, _RECALLED), pace.seconds / self.verify.seconds(pace.size)

    def _round_seconds(self, batch: int) -> tuple[float, ...]:
        """By draft length, one request's part of a round in which all draft alike."""
        longest = max((source.longest for source in self.sources), default=0)
        return tuple(
            (self.verify.seconds(batch * (k + 1)) + self.overhead + bool(k) * self.handling) / batch
            for k in range(longest + 1)
        )

    def _due(self, source: Source, counters: Counters) -> bool:
        """Whether a source that was left out should be tried again."""
        tally = counters.tallies.get(source.name, _NEVER)
        if tally.drafts and tally.clean:
            return True
        wait = min(max(tally.newest, self.probe_after), self.probe_within)
        return counters.rounds + 1 - tally.newest > wait
