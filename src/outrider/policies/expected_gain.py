"""Draft as much as is expected to pay: tokens per second from measured costs and acceptance.

What each origin of drafts promises is in `source.py`; here is who of them drafts, and when what
did not pay is tried again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from outrider.core.counters import Counters, Pace, Tally
from outrider.core.errors import OptionError
from outrider.core.types import Budget
from outrider.policies.curve import CostCurve
from outrider.policies.source import Plan, Source
from outrider.protocols.method import Method, Paper

_NEVER = Tally()
_BELIEF, _RECALLED = 4, 16
"""Rounds for which it is believed that both kinds have one pace; most rounds that count."""
_PATIENCE, _NAP, _LONGEST_NAP = 0.4, 8, 64
"""What opportunistic sources that have nothing may cost in a row, in rounds; rounds they are then
left alone, at first and at most."""
DEAR, _LATE = 0.05, 12
"""Share of a round from which asking is dear; the first rounds of a text, in which it is not asked
then: most short texts have nothing to copy."""
_TRIFLE = 0.01
"""Share of a round that asking may take unnoticed."""
_STANDING = 16
"""Rounds for which measured paces, and decisions that nothing contradicts, stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedGain:
    """Asks each source for as many tokens as promise the most tokens per second, or for none.

    It goes by the tallies of one request: how often tokens of each origin were kept and what
    drafting them took, faded with distance and weighed with what was believed before. Of the
    sources that can always draft, the best one alone gets a share; opportunistic ones get theirs
    beside it, where they promise more. A source that was left out is tried again when as many
    rounds have passed as there were before its newest draft, at least `probe_after` and at most
    `probe_within`; while its trials are kept, every round.

    Its budgets depend on measured times. With `Match` at the outside that changes speed, never
    text. With other rules the text may depend on draft lengths: two runs may differ.

    Attributes:
        verify: seconds of the verifier's forward by rows.
        sources: whose drafts it deals with; it asks for nothing where there are none.
        overhead: seconds of a round beside drafting and the verifier's forward.
        handling: what comes on top in rounds that verify a draft.
        asking: what it takes to ask opportunistic sources that have nothing. Where that counts
            beside a round, those that had nothing for some rounds rest for 8, then for ever longer.
        margin: share by which drafting must promise more than not drafting.
        probe_after: rounds after which a source left out is tried again, at the earliest.
        probe_within: the same, at the latest.
        plain_every: of so many rounds one is undrafted, to see what that takes here and now.
    """

    verify: CostCurve
    sources: tuple[Source, ...]
    overhead: float = 1e-4
    handling: float = 0.0
    asking: float = 0.0
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
        """A share for each source; the depth is that of the deepest.

        A decision stands until a draft was verified, or for a few rounds.
        """
        desk, now = counters.plan, counters.now
        if not isinstance(desk, _Desk) or desk.batch != batch:
            desk = counters.plan = _Desk(batch)
        drafts = counters.rounds - counters.undrafted_rounds
        desk.vain += desk.asks
        stands = drafts == desk.drafts and desk.since <= now < desk.until
        if desk.budget is None or not stands or desk.vain >= desk.patience:
            desk.drafts, desk.since = drafts, now
            desk.budget, desk.until = self._decide(counters, desk)
        return desk.budget

    def _decide(self, counters: Counters, desk: "_Desk") -> tuple[Budget, int]:
        """The budget, and the round at which it is to be looked at again."""
        now = counters.now
        if desk.quiet and self.asking > DEAR * self._alone[0]:
            desk.quiet = False
            return self._budget(dict.fromkeys((s.name for s in self.sources), 0)), now + _LATE
        plain = now + self.plain_every - 1 - now % self.plain_every
        if now == plain:
            return self._budget({source.name: 0 for source in self.sources}), now + 1
        if now >= desk.fresh or not desk.verify:
            desk.verify, desk.fresh = self._here(counters, desk.batch), now + _STANDING
            desk.plans.clear()
        asleep = self._naps(counters, desk)
        shares = self._shares(counters, self._plans(counters, desk), desk.verify)
        if asleep:
            shares |= dict.fromkeys(
                (source.name for source in self.sources if source.opportunistic), 0
            )
        desk.asks = any(shares[source.name] for source in self.sources if source.opportunistic)
        until = now + _STANDING
        if not any(shares.values()):
            until = min(
                (
                    desk.asleep
                    if source.opportunistic and asleep
                    else self._due_at(source, counters)
                    for source in self.sources
                ),
                default=plain,
            )
        desk.pays = any(shares[source.name] for source in self.sources if not source.opportunistic)
        return self._budget(shares), max(min(until, plain), now + 1)

    def _naps(self, counters: Counters, desk: "_Desk") -> bool:
        """Whether opportunistic sources are not asked for a while, having had nothing for long.

        Asking costs little, but a round of a small model is short.
        """
        share = self.asking / desk.verify[0]
        if share <= _TRIFLE:
            return False
        patience = max(_PATIENCE // share, 2)
        if desk.patience == inf:
            desk.patience = patience
            desk.asleep = counters.past + _LATE if share > DEAR else 0
        tallies = [counters.tallies.get(s.name, _NEVER) for s in self.sources if s.opportunistic]
        found, kept = sum(t.drafts for t in tallies), sum(t.accepted for t in tallies)
        if found != desk.found:
            desk.found, desk.vain = found, 0
        if kept != desk.kept:
            desk.kept, desk.nap, desk.patience, desk.asleep = kept, _NAP, patience, 0
        if desk.vain >= desk.patience:
            desk.asleep, desk.vain = counters.now + desk.nap, 0
            desk.nap, desk.patience = min(2 * desk.nap, _LONGEST_NAP), max(patience // 2, 1)
        return counters.now < desk.asleep

    def _shares(
        self, counters: Counters, plans: Sequence[tuple[Source, Plan]], verify: Sequence[float]
    ) -> dict[str, int]:
        """Of the sources that can always draft one gets a share; opportunistic ones where they
        pay."""
        steady = [pair for pair in plans if not pair[0].opportunistic]
        shares = dict.fromkeys((source.name for source, _ in steady), 0)
        floor = (1.0 + self.margin) / verify[0]
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
        for source, plan in plans:
            if source.opportunistic:
                pays = plan.speed >= floor
                shares[source.name] = plan.length if pays else int(self._due(source, counters))
        return shares

    def _budget(self, shares: dict[str, int]) -> Budget:
        nodes = max(shares.values(), default=0)
        depths = [self._deepest(source, shares[source.name]) for source in self.sources]
        return Budget(depth=max(depths, default=0), nodes=nodes, shares=shares)

    @staticmethod
    def _deepest(source: Source, share: int) -> int:
        return min(share, source.depth) if source.reach else share

    def _plans(self, counters: Counters, desk: "_Desk") -> list[tuple[Source, Plan]]:
        """What serves each source best now; looked up where its drafts have changed nothing."""
        found: list[tuple[Source, Plan]] = []
        for source in self.sources:
            tally = counters.tallies.get(source.name, _NEVER)
            known = desk.plans.get(source.name)
            if known is None or known[0] != tally.drafts:
                known = desk.plans[source.name] = (tally.drafts, source.plan(tally, desk.verify))
            found.append((source, known[1]))
        return found

    def _here(self, counters: Counters, batch: int) -> Sequence[float]:
        """By draft length, seconds of a round: as measured at first, and at the pace of this text.

        Rounds with and without a draft have a pace each, because a busy machine, or a long text,
        slows wide forwards and narrow ones differently. What was seen of both stands in where one
        was seen little. A round without a draft takes no longer than the shortest one with a draft:
        where it was measured to, it was interrupted.
        """
        table = self._alone if batch == 1 else self._round_seconds(batch)
        (n, plain), (m, checked) = self._seen(counters.plain), self._seen(counters.checked)
        whole = (n * plain + m * checked) / (n + m) if n + m else 1.0
        plain = (n * plain + _BELIEF * whole) / (n + _BELIEF)
        checked = (m * checked + _BELIEF * whole) / (m + _BELIEF)
        drafted = [seconds * checked for seconds in table[1:]]
        return [min(table[0] * plain, *drafted[:1]), *drafted] if drafted else [table[0] * plain]

    def _seen(self, pace: Pace) -> tuple[int, float]:
        """How many rounds count, and their seconds / those of the curve."""
        if not (pace.count and pace.seconds):
            return 0, 1.0
        return min(pace.count, _RECALLED), pace.seconds / self.verify.seconds(pace.size)

    def _round_seconds(self, batch: int) -> tuple[float, ...]:
        """By draft length, one request's part of a round in which all draft alike."""
        longest = max((source.most for source in self.sources), default=0)
        return tuple(
            (self.verify.seconds(batch * (k + 1)) + self.overhead + bool(k) * self.handling) / batch
            for k in range(longest + 1)
        )

    def _due(self, source: Source, counters: Counters) -> bool:
        """Whether a source that was left out should be tried again."""
        return counters.now >= self._due_at(source, counters)

    def _due_at(self, source: Source, counters: Counters) -> int:
        """The round in which a source that is left out is to be tried again."""
        tally = counters.tallies.get(source.name, _NEVER)
        if tally.drafts and tally.clean:
            return tally.newest
        return tally.newest + min(max(tally.newest, self.probe_after), self.probe_within)


@dataclass(slots=True)
class _Desk:
    """What the policy has worked out for one request, and until when it stands.

    Attributes:
        batch: requests that share a forward.
        budget: the decision that stands; from round `since`, before round `until`, while rounds
            with a draft are `drafts` in number.
        verify: by the size of a draft, seconds of a round beside drafting; until round `fresh`.
        plans: by source, its drafts when it was planned for, and the plan.
        asks: whether opportunistic sources have a share; `vain` rounds they had nothing in a row,
            of which `patience` are borne before they are left alone, until round `asleep`; next
            time for `nap` rounds. Any of their tokens that is kept wakes them for good.
        found: their drafts when last looked at; `kept` of their tokens were accepted by then.
        pays: whether a source that can always draft had a share at last.
        quiet: whether the text before ended with nobody drafting. Where asking is dear, this one
            begins so, without a thought.
    """

    batch: int
    budget: Budget | None = None
    since: int = 0
    until: int = 0
    drafts: int = 0
    verify: Sequence[float] = ()
    fresh: int = 0
    plans: dict[str, tuple[int, Plan]] = field(default_factory=dict)
    asks: bool = False
    vain: int = 0
    patience: float = inf
    nap: int = _NAP
    asleep: int = 0
    found: int = 0
    kept: int = 0
    pays: bool = False
    quiet: bool = False

    def carried(self) -> "_Desk":
        """What the next text begins with."""
        return _Desk(self.batch, quiet=not (self.pays or self.asks))


METHOD = Method(
    name="expected-gain",
    cls=ExpectedGain,
    summary="each source is asked for as much as is expected to pay, by measured costs",
    paper=Paper("speculative decoding", "2211.17192"),
)
