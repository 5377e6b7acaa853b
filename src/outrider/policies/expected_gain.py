"""Draft the number of tokens with the largest expected speed, from measured costs and acceptance.

`source.py` computes the expected speed of each source of drafts. This file decides which sources
draft, and when a source that did not pay is tried again. `pauses.py` decides when opportunistic
sources, which may have nothing to propose, are left out.

One request goes through these states (`Decision`):

    no decision ---> decided: shares for the sources ---> the same budget, round after round
                        ^                                     |
                        |   a draft was verified,             |
                        |   or `_VALID` rounds have passed,   |
                        |   or a source is due for a trial,   |
                        |   or opportunistic sources had      |
                        +-- nothing for too many rounds ------+

Within a decision each source is in one of four states:

    leads: the steady source with the largest expected speed, above that of undrafted decoding
    supplements: an opportunistic source with a larger expected speed than the leader, or one that
        selects its tokens by what they gain over the leader (`Worth`)
    left out: its expected speed is too low; the intervals between its trials grow
    on trial: one round with a share; while its drafts are fully accepted, every round
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from outrider.core.counters import Counters, Pace, Tally
from outrider.core.errors import OptionError
from outrider.core.types import Budget, Worth
from outrider.policies.pauses import FIRST_ROUNDS, NOTICEABLE, Pauses
from outrider.policies.source import Plan, Source
from outrider.policies.speed import Speed
from outrider.policies.surface import CostSurface
from outrider.protocols.method import Method, Paper

_NEVER = Tally()
_BELIEF, _RECALLED = 4, 16
"""Weight, in rounds, of the prior that rounds with and without a draft are equally slow, and the
largest weight of measured rounds."""
_LEAST_PACE = 1e-6
"""Lower bound for the measured share of the expected time of a round; a clock can return 0."""
_DEAR = 0.5
"""Share of the time of a token of a batch from which on a further row is too dear: looking for
drafts and learning from all texts would take longer than drafts gain."""
_STALE = 64
"""Undrafted rounds after which measured rounds with drafts count half."""
_VALID = 16
"""Number of rounds for which measured paces and decisions are valid, unless a draft is verified."""


@dataclass(slots=True)
class Decision:
    """What the policy has decided for one request, and for how long it is valid.

    Attributes:
        batch: requests that share a forward.
        budget: the current decision; None before the first.
        since: the round of the decision.
        until: the round before which it is valid.
        drafts: rounds with a draft when it was made.
        verify: by the size of a draft, seconds of a round without drafting.
        fresh: the round until which `verify` is valid.
        plans: by source, its number of drafts at the time of the plan, and the plan.
        proposing: whether opportunistic sources have a share.
        pauses: when opportunistic sources are left out.
        steady_pays: whether a source that always proposes has a share in the current decision.
        starts_undrafted: whether the previous text ended without drafting. If a query takes a
            noticeable share of a round, the first rounds of this text are then undrafted as well.
        speed: tokens per round of this text, and what they cost.
        least: `Worth.least` for sources that select their tokens.
    """

    batch: int
    budget: Budget | None = None
    since: int = 0
    until: int = 0
    drafts: int = 0
    verify: Sequence[float] = ()
    fresh: int = 0
    plans: dict[str, tuple[int, Plan]] = field(default_factory=dict[str, tuple[int, Plan]])
    proposing: bool = False
    pauses: Pauses = field(default_factory=Pauses)
    steady_pays: bool = False
    starts_undrafted: bool = False
    speed: Speed = field(default_factory=Speed)
    least: float = 0.0

    def valid(self, drafts: int, now: int) -> bool:
        """Whether the budget holds in round `now`, with `drafts` rounds that had a draft."""
        holds = self.budget is not None and drafts == self.drafts
        return holds and self.since <= now < self.until and not self.pauses.due

    def beside(self, batch: int) -> "Decision":
        """Return the state in another batch: costs differ, and all that depends on them."""
        return replace(self, batch=batch, budget=None, verify=(), fresh=0, plans={})

    def carried(self) -> "Decision":
        """Return the initial state of the next text."""
        undrafted = not (self.steady_pays or self.proposing)
        return Decision(self.batch, starts_undrafted=undrafted, speed=self.speed.carried())


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedGain:
    """Gives each source the share with the most expected tokens per second, or none.

    The expected speed of a source is computed from the counts of one request: how often its tokens
    were accepted, and how long drafting them took. Older rounds have less weight; priors are used
    at first. Of the steady sources, which always propose, only the best one gets a share.
    Opportunistic sources get an additional share if their expected speed is larger. A source that
    is left out is tried again after as many rounds as there were before its newest draft, at least
    `probe_after` and at most `probe_within`; while its trials are fully accepted, it is tried in
    every round.

    Budgets depend on measured times. With `Match` as the outermost rule this changes speed, never
    the text. With other rules the text may depend on draft lengths, so two runs may differ.

    Attributes:
        verify: seconds of the verifier's forward by rows.
        sources: the sources of drafts; without any the budget is empty.
        overhead: seconds of a round without drafting and the verifier's forward.
        handling: additional seconds of a round that verifies a draft.
        asking: seconds of a round in which opportunistic sources propose nothing.
        margin: share by which the expected speed must exceed that of undrafted decoding.
        probe_after: fewest rounds after which a source that is left out is tried again.
        probe_within: most rounds after which it is tried again.
        plain_every: one of this many rounds is undrafted, to measure undrafted rounds on this text.
    """

    verify: CostSurface
    sources: tuple[Source, ...]
    overhead: float = 1e-4
    handling: float = 0.0
    asking: float = 0.0
    margin: float = 0.05
    probe_after: int = 8
    probe_within: int = 256
    plain_every: int = 64
    _alone: tuple[float, ...] = field(init=False, repr=False)
    _selecting: bool = field(init=False, repr=False)
    _tables: dict[int, tuple[float, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict[int, tuple[float, ...]]
    )

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise OptionError(
                f"the names of the sources are {names}", hint="Give each source a unique name"
            )
        if not 1 <= self.probe_after <= self.probe_within:
            raise OptionError(
                f"probe_after is {self.probe_after} and probe_within {self.probe_within}",
                hint="Give 1 <= probe_after <= probe_within",
            )
        object.__setattr__(self, "_alone", self._round_seconds(1))
        object.__setattr__(self, "_selecting", any(source.selects for source in self.sources))

    @property
    def adaptive(self) -> bool:
        """True: the budget depends on the results of earlier drafts."""
        return True

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """Return a share for each source; the depth is that of the deepest.

        A decision is valid until a draft is verified, or for a few rounds.
        """
        if batch > 1 and self.selecting and self.dear(batch):
            return Budget.chain(0)
        decision, now = counters.plan, counters.now
        if not isinstance(decision, Decision):
            decision = counters.plan = Decision(batch)
        elif decision.batch != batch:
            decision = counters.plan = decision.beside(batch)
        drafts = counters.rounds - counters.undrafted_rounds
        decision.pauses.misses += decision.proposing
        if decision.budget is None or not decision.valid(drafts, now):
            decision.drafts, decision.since = drafts, now
            if self._selecting:
                decision.speed.note(
                    counters,
                    self._table(batch),
                    lambda rows: self.verify.seconds(rows, batch),
                )
            decision.budget, decision.until = self._decide(counters, decision)
            if self._selecting and decision.budget.depth:
                worth = decision.speed.worth(self._table(batch), decision.least)
                worth = self._beside(counters, decision.budget, worth)
                decision.budget = replace(decision.budget, worth=worth)
        return decision.budget

    def _beside(self, counters: Counters, budget: Budget, worth: Worth) -> Worth:
        """Return what other drafts must gain beside the sources that wait for them."""
        for source in self.sources:
            if source.waits and budget.share(source.name):
                promise = source.promise(counters.tallies.get(source.name, _NEVER), worth)
                if promise > worth.least:
                    worth = replace(worth, least=promise, beside=source.name)
        return worth

    @property
    def selecting(self) -> bool:
        """Whether all sources select tokens by their chances (`Source.selects`)."""
        return bool(self.sources) and all(source.selects for source in self.sources)

    def dear(self, batch: int) -> bool:
        """Whether a further row takes so long beside a batch that nothing is drafted."""
        undrafted, first = self._table(batch)[:2]
        return first - undrafted >= _DEAR * undrafted

    def offer(self, counters: Counters) -> tuple[float, ...]:
        """Return the chance that each token of the next draft is kept, never increasing: that of
        the source from which most is expected.

        Nodes of a tree are counted in the order of the draft.
        """
        best: tuple[float, ...] = ()
        for source in self.sources:
            tally = counters.tallies.get(source.name, _NEVER)
            found = source.survival(tally)
            if sum(found) > sum(best):
                best = found
        return best

    def _decide(self, counters: Counters, decision: Decision) -> tuple[Budget, int]:
        """Return the budget, and the round before which it is valid."""
        now = counters.now
        nothing = dict.fromkeys((source.name for source in self.sources), 0)
        if decision.starts_undrafted and self.asking > NOTICEABLE * self._alone[0]:
            decision.starts_undrafted = False
            return self._budget(nothing), now + FIRST_ROUNDS
        plain = now + self.plain_every - 1 - now % self.plain_every
        if now == plain:
            return self._budget(nothing), now + 1
        if now >= decision.fresh or not decision.verify:
            decision.verify, decision.fresh = self._here(counters, decision.batch), now + _VALID
            decision.plans.clear()
        paused = self._paused(counters, decision)
        decision.least = 0.0
        shares = self._shares(counters, decision)
        if paused:
            shares |= {source.name: 0 for source in self.sources if source.opportunistic}
        decision.proposing = any(shares[s.name] for s in self.sources if s.opportunistic)
        decision.steady_pays = any(shares[s.name] for s in self.sources if not s.opportunistic)
        until = (
            now + _VALID
            if any(shares.values())
            else self._next_trial(counters, decision, paused, plain)
        )
        return self._budget(shares), max(min(until, plain), now + 1)

    def _next_trial(self, counters: Counters, decision: Decision, paused: bool, plain: int) -> int:
        """Return the round in which a source that is left out is tried, or a pause ends."""
        rounds = (
            decision.pauses.until
            if source.opportunistic and paused
            else self._due_at(source, counters)
            for source in self.sources
        )
        return min(rounds, default=plain)

    def _paused(self, counters: Counters, decision: Decision) -> bool:
        """Whether opportunistic sources are left out in this round."""
        share = self.asking / decision.verify[0]
        tallies = [counters.tallies.get(s.name, _NEVER) for s in self.sources if s.opportunistic]
        return decision.pauses.paused(share, counters.now, counters.past, tallies)

    def _shares(self, counters: Counters, decision: Decision) -> dict[str, int]:
        """Give a share to one of the steady sources, and to each opportunistic one that pays."""
        plans, verify = self._plans(counters, decision), decision.verify
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
                fixed, each = leader.costs(counters.tallies.get(leader.name, _NEVER))
                seconds = fixed + each * plan.length + verify[plan.length]
                decision.least = decision.speed.surplus(seconds, plan.speed, verify)
            else:
                shares[leader.name] = int(self._due(leader, counters))
            floor = max(floor, plan.speed)
        for source, plan in plans:
            if source.selects:
                pays = plan.length > 0 or self._due(source, counters)
                shares[source.name] = source.longest if pays else 0
            elif source.opportunistic:
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

    def _plans(self, counters: Counters, decision: Decision) -> list[tuple[Source, Plan]]:
        """Return the best plan of each source; it is recomputed only after a new draft of the
        source.
        """
        found: list[tuple[Source, Plan]] = []
        for source in self.sources:
            tally = counters.tallies.get(source.name, _NEVER)
            known = decision.plans.get(source.name)
            if known is None or known[0] != tally.drafts:
                known = decision.plans[source.name] = (
                    tally.drafts,
                    source.plan(tally, decision.verify),
                )
            found.append((source, known[1]))
        return found

    def _here(self, counters: Counters, batch: int) -> Sequence[float]:
        """Return the seconds of a round by draft length: the initial measurement, scaled by the
        pace of this text.

        Rounds with and without a draft have separate paces, because a busy machine or a long text
        slows wide and narrow forwards differently. If there are few rounds of one kind, the pace of
        both kinds together is used, and likewise if the rounds with drafts are long ago. A round
        without a draft cannot take longer than the shortest round with a draft; a longer
        measurement was interrupted and is not used.
        """
        table = self._table(batch)
        (n, plain), (m, checked) = (
            self._seen(pace, batch) for pace in (counters.plain, counters.checked)
        )
        newest = max((tally.newest for tally in counters.tallies.values()), default=0)
        m *= 0.5 ** (max(counters.now - newest, 0) / _STALE)
        whole = (n * plain + m * checked) / (n + m) if n + m else 1.0
        plain = (n * plain + _BELIEF * whole) / (n + _BELIEF)
        checked = (m * checked + _BELIEF * whole) / (m + _BELIEF)
        drafted = [seconds * checked for seconds in table[1:]]
        return [min(table[0] * plain, *drafted[:1]), *drafted] if drafted else [table[0] * plain]

    def _table(self, batch: int) -> Sequence[float]:
        """Return the seconds of a round by draft length, as measured at first."""
        if batch == 1:
            return self._alone
        if (found := self._tables.get(batch)) is None:
            found = self._tables[batch] = self._round_seconds(batch)
        return found

    def _seen(self, pace: Pace, batch: int) -> tuple[int, float]:
        """Return the number of rounds that are counted, and the ratio of their seconds to the
        surface.
        """
        if not (pace.count and pace.seconds):
            return 0, 1.0
        ratio = pace.seconds / self.verify.seconds(pace.size, batch)
        return min(pace.count, _RECALLED), max(ratio, _LEAST_PACE)

    def _round_seconds(self, batch: int) -> tuple[float, ...]:
        """Return, by draft length, the share of one request in the seconds of a round in which all
        requests have drafts of this length.
        """
        longest = max((source.most for source in self.sources), default=0)
        return tuple(
            (self.verify.seconds(batch * (k + 1), batch) + self.overhead + bool(k) * self.handling)
            / batch
            for k in range(longest + 1)
        )

    def _due(self, source: Source, counters: Counters) -> bool:
        """Whether a source that was left out should be tried again."""
        return counters.now >= self._due_at(source, counters)

    def _due_at(self, source: Source, counters: Counters) -> int:
        """Return the round in which a source that is left out is tried again."""
        tally = counters.tallies.get(source.name, _NEVER)
        if tally.drafts and tally.clean:
            return tally.newest
        return tally.newest + min(max(tally.newest, self.probe_after), self.probe_within)


METHOD = Method(
    name="expected-gain",
    cls=ExpectedGain,
    summary="the draft length with the most expected tokens per second, from measured costs",
    paper=Paper("speculative decoding", "2211.17192"),
)
