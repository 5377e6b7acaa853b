"""The state machine of the guard for one size of batch. It knows times and counts only.

    open --> run --> close --+--> run ... (an epoch: undrafted, drafted and undrafted rounds)
      ^                      +--> free (drafts clearly gain: no rounds are undrafted for the guard)
      |                      |      |
      +-- drafts look slower -------+
                             +--> off --> probe --> check --+--> probe (a second trial)
                                   ^                        +--> run (both trials gained)
                                   +------------------------+

An epoch gives x, the logarithm of the seconds per token without drafts over those with drafts. A
one-sided CUSUM (Page 1954) adds up losses: `S = max(0, S - x - SLACK)`, for epochs of 32 drafted
rounds, and in proportion for shorter ones. Drafting is switched off if S exceeds `LIMIT`, if an
epoch is so slow that noise does not explain it (`MUCH`), or if losses and gains together have used
up the `Allowance`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt

from outrider.policies.guard.allowance import Allowance, scale
from outrider.policies.guard.paces import Drafted, PlainPace, Stalls, clipped
from outrider.policies.guard.phase import Phase, is_other
from outrider.policies.guard.report import Cause, State, Switch, compared

EPOCH, FIRST, FLANK = 32, 8, 2
"""Drafted rounds of an epoch and of the first one, and undrafted rounds before and after it."""
SLACK, LIMIT = 0.03, 0.7
"""Of the CUSUM."""
MUCH, MUCH_FIRST = -0.35, -0.25
"""The x of an epoch below which drafting is switched off at once; in the first epoch and in trials,
the second. Noise is larger in shorter epochs: x is multiplied by the root of their share of `EPOCH`
rounds first."""
CLEAR = 0.1
"""Mean x from which on the guard makes no rounds undrafted while all looks well."""
DOUBT = 0.16
"""The S in free rounds from which on an epoch is measured."""
PLAIN_EVERY = 64
"""One of this many free rounds is undrafted; undrafted rounds of the policy count."""
FIRST_WAIT, LAST_WAIT = 64, 4096
"""Undrafted rounds before the first trial, and at most."""
BURST, GAINS = 8, 0.06
"""Drafted rounds of a trial, and the mean x of two trials that switches drafting on."""
SLICE, MOMENT = 0.03, 0.002
"""Seconds that drafted rounds, and undrafted ones beside them, last at least before they are
compared: in less than a time slice of the system, other processes decide what they take."""
CYCLES, WITHIN = 3, 4096
"""With so many switches to off within so many rounds, waits go on growing."""
_STALE = 64
"""Rounds of other batch sizes after which an epoch begins anew."""
_IDLE = 16
"""Undrafted rounds of an epoch or trial that has not begun, after which they renew the pace."""
_EARLY = (4, 8, 16, 24)
"""Numbers of drafted rounds at which an epoch may end early."""
_MEMORY = 8
"""Number of epochs over which x is averaged."""


@dataclass(slots=True, kw_only=True)
class Watch:
    """The state for one size of batch.

    Attributes:
        allowance: shared by all watches of a guard.
        acts: whether drafting is switched off; else the state is `losing`, and drafts go on.
        state: what is reported.
        phase: what it is doing.
        s: the CUSUM.
        x: of the newest epoch or trial; None before the first.
        mean: smoothed x of epochs.
        rounds: rounds so far.
        switched: round of the newest switch.
        reason: of the newest switch.
    """

    allowance: Allowance
    acts: bool = True
    state: State = State.ON
    phase: Phase = Phase.OPEN
    s: float = 0.0
    x: float | None = None
    mean: float = 0.0
    rounds: int = 0
    switched: int = 0
    reason: str = ""
    _pace: PlainPace = field(default_factory=PlainPace)
    _seen: Drafted = field(default_factory=Drafted)
    _size: int = FIRST
    _epochs: int = 0
    _doubt: bool = True
    _warm: int = 1
    _flank: int = 0
    _free: int = 0
    _wait: int = FIRST_WAIT
    _due: int = 0
    _trial: Drafted | None = None
    _kinds: set[str] = field(default_factory=set[str])
    _offs: list[int] = field(default_factory=list[int])
    _newest: int = 0
    _scale: float = 1.0
    _beside: float = 0.0
    _stalls: Stalls = field(default_factory=Stalls)
    _context: float | None = None

    # -- before a round ---------------------------------------------------------------------

    def drafts(self, kind: Callable[[], str], now: int, context: float = 0.0) -> bool:
        """Whether the next round may draft.

        Args:
            kind: returns the kind of the requests of the round; a new kind is tried soon.
            now: rounds of all batch sizes so far.
            context: tokens per request that the round reads; other lengths are compared anew.
        """
        if now - self._newest > _STALE and self.phase in (Phase.OPEN, Phase.RUN, Phase.CLOSE):
            self._begin(FIRST)
        self._newest = now
        self._follow(context)
        if self.phase is Phase.OFF and self._is_due(kind):
            self._kinds.add(kind())
            self._probe()
        match self.phase:
            case Phase.RUN:
                return self._seen.rounds > 0 or self._affordable
            case Phase.FREE:
                return self._free < PLAIN_EVERY - 1
            case Phase.PROBE:
                return self._pace.count > 0
            case _:
                return False

    def _follow(self, context: float) -> None:
        """Begin the epoch or trial anew if its requests were replaced by much longer or shorter
        ones, whose rounds cost something else. The state stays."""
        self._context, begun = context, self._seen.context
        if begun is None or self.phase is Phase.OFF:
            self._seen.context = context
        if begun is None or not is_other(context, begun):
            return
        self._pace.renew()
        if self.phase in (Phase.PROBE, Phase.CHECK):
            first = self._trial
            self._probe()
            self._trial = first
        elif self.phase is not Phase.OFF:
            self._begin(self._size)

    @property
    def drafts_unmeasured(self) -> bool:
        """Whether a round that is not noted may draft: nothing is undrafted for a comparison there,
        and no trial goes on."""
        return self.state is not State.OFF and self._affordable

    @property
    def _affordable(self) -> bool:
        """Whether an epoch may begin: losses of the first one must fit the allowance."""
        return self._epochs > 0 or not self._overdrawn

    def _is_due(self, kind: Callable[[], str]) -> bool:
        # a trial may meet another stall of a drafter that stalls
        if self.allowance.left < Allowance.RESERVE + self._stalls.risk(self.rounds):
            return False
        if self.rounds >= self._due:
            return True
        if self.rounds < self._due - self._wait + FIRST_WAIT:
            return False
        return kind() not in self._kinds

    # -- after a round ----------------------------------------------------------------------

    def note(self, batch: int, asked: bool, seconds: float, tokens: float) -> Switch | None:
        """Add a round; return the switch that it causes.

        Args:
            batch: requests in it.
            asked: whether anything had a budget for drafts.
            seconds: of the whole round.
            tokens: that it wrote.
        """
        self.rounds += 1
        self._scale = scale(self._pace.level)
        self.allowance.pass_round(self._scale)
        if not asked or not self._pace.count:
            self._free = 0
            return self._plain(batch, seconds)
        self._free += 1
        return self._drafted(batch, seconds, tokens)

    def _plain(self, batch: int, seconds: float) -> Switch | None:
        if not self._pace.count:
            self._pace.note(batch, seconds)
        ratio = seconds / max(self._pace.seconds(batch), 1e-9)
        self._pace.interrupted(ratio)
        self._seen.burden = self._pace.burden
        if self.phase in (Phase.FREE, Phase.OFF):
            self._pace.note(batch, seconds)
            return None
        beside = self._seen.beside
        waits = self.phase in (Phase.RUN, Phase.PROBE) and not self._seen.rounds
        if waits and self._flank > _IDLE:  # the policy does not draft
            self._pace.note(batch, seconds)
            beside.clear()
            return None
        beside.append(ratio)
        del beside[: -2 * FLANK - FIRST]
        self._flank += 1
        self._beside += seconds
        if self._flank < FLANK or self._beside < MOMENT:
            return None
        if self.phase is Phase.OPEN:
            self.phase = Phase.RUN
        elif self.phase is Phase.CLOSE:
            return self._judge()
        elif self.phase is Phase.CHECK:
            return self._judge_trial()
        return None

    def _drafted(self, batch: int, seconds: float, tokens: float) -> Switch | None:
        spent = seconds / max(self._pace.seconds(batch), 1e-9)
        spent = self._stalls.limited(spent, self.rounds)
        written = tokens / batch
        charged = self.allowance.charge(self._scale * (spent / self._seen.plain - written))
        if self._warm:  # the drafter catches up with the text, once
            self._warm -= 1
            return None
        seen = self._seen
        seen.add(spent, written, seconds)
        seen.charged += charged
        if seen.seconds < SLICE:
            return None
        if self.phase is Phase.FREE:
            self._judge_free()
        elif self.phase is Phase.RUN:
            if seen.rounds >= self._size or self._ends_early(self._size):
                self._enter(Phase.CLOSE)
        elif seen.rounds >= BURST or self._ends_early(BURST):
            self._enter(Phase.CHECK)
        return None

    def _ends_early(self, size: int) -> bool:
        """Whether an epoch or trial of `size` rounds looks much slower already."""
        rounds = self._seen.rounds
        if not self.acts:
            return False
        spent = self.allowance.empty if self.phase is Phase.PROBE else self.allowance.overdrawn
        if spent and rounds > 1 and self._seen.gain < 0.0:
            return True
        if rounds not in _EARLY or rounds >= size:
            return False
        return self._much(self._seen) or self._added(self._seen) > LIMIT

    # -- decisions --------------------------------------------------------------------------

    def _judge(self) -> Switch | None:
        """Decide after an epoch."""
        seen = self._seen
        self._settle(seen)
        self.s, much = self._added(seen), self._much(seen)
        self._remember(seen.gain, 1.0)
        overdrawn = self._overdrawn and seen.gain < 0.0
        if self.s > LIMIT or (much and self._doubt) or overdrawn:
            cause = Cause.DRIFT if self.s > LIMIT else Cause.SLOW
            if cause is Cause.SLOW and not much:
                cause = Cause.ALLOWANCE
            return self._switch_off(cause, seen)
        switch = self._recovered(seen)
        self._doubt = much
        self._size = FIRST if much and self.acts else EPOCH
        clear = CLEAR if self._epochs > 1 else 2 * CLEAR  # the first epoch is short
        if self.mean > clear and not self.s:
            self._seen = self._fresh(known=True)
            self._enter(Phase.FREE)
        else:  # the rounds that close an epoch open the next one
            closing = [ratio / seen.level for ratio in seen.beside[-FLANK:]]
            self._seen = self._fresh(known=True)
            self._seen.beside = closing
            self._enter(Phase.RUN)
        return switch

    def _judge_free(self) -> None:
        """Look at a group of free rounds; compare them with undrafted ones if they look slower."""
        seen = self._seen
        if self._ends_early(FIRST) or (seen.rounds >= FIRST and self._added(seen) > DOUBT):
            self._enter(Phase.CLOSE)
        elif seen.rounds >= FIRST:
            self.s = self._added(seen)
            self._remember(seen.gain, FIRST / EPOCH)
            self._seen = self._fresh(known=True)
            if self.mean < CLEAR:
                self._begin(EPOCH)

    def _judge_trial(self) -> Switch | None:
        """Decide after a trial: a second one, on, or a longer wait."""
        seen, before = self._seen, self._trial
        self._settle(seen)
        self.x = gain = clipped(seen.gain)
        if before is None and gain > 0.0:
            self._probe()
            self._warm, self._trial = 0, seen
            return None
        if before is not None and (gain + clipped(before.gain)) / 2.0 > GAINS:
            both = Drafted(
                rounds=seen.rounds + before.rounds,
                spent=seen.spent + before.spent,
                written=seen.written + before.written,
            )
            return self._switch_on(both)
        self._wait = min(2 * self._wait, LAST_WAIT)
        self._rest()
        return None

    def _switch_on(self, seen: Drafted) -> Switch:
        self.s, self.mean, self._epochs = 0.0, 0.0, 0
        self._begin(FIRST)
        self._warm = 0
        reason = f"two trials: {compared(seen, seen.gain)}"
        return self._switched(State.ON, Cause.GAIN, reason)

    def _switch_off(self, cause: Cause, seen: Drafted) -> Switch | None:
        text = compared(seen, seen.gain)
        if cause is Cause.DRIFT:
            text = f"losses of several epochs add up to {self.s:.2f}; {text}"
        elif cause is Cause.ALLOWANCE:
            lost = Allowance.CAPACITY - self.allowance.left
            text = f"drafts have lost {lost:.0f} undrafted rounds lately, more than allowed; {text}"
        self.s, self._doubt, self._epochs = 0.0, True, 0
        if not self.acts:
            self._begin(EPOCH)
            again = self.state is State.LOSING
            return None if again else self._switched(State.LOSING, cause, text)
        recent = [at for at in self._offs if self.rounds - at < WITHIN]
        self._offs = [*recent, self.rounds]
        self._wait = FIRST_WAIT if len(recent) < CYCLES else min(2 * self._wait, LAST_WAIT)
        self._kinds.clear()
        self._rest()
        return self._switched(State.OFF, cause, text)

    def _recovered(self, seen: Drafted) -> Switch | None:
        """Return the switch of a guard that only warns, once drafts gain again."""
        if self.state is not State.LOSING or self.s or self._epochs < 2 or self.mean < GAINS:
            return None
        return self._switched(State.ON, Cause.GAIN, compared(seen, seen.gain))

    # -- parts ------------------------------------------------------------------------------

    @property
    def _overdrawn(self) -> bool:
        return self.acts and self.allowance.overdrawn

    def _switched(self, to: State, cause: Cause, reason: str) -> Switch:
        self.state, self.switched, self.reason = to, self.rounds, reason
        return Switch(to=to, cause=cause, reason=reason)

    def _enter(self, phase: Phase) -> None:
        self.phase, self._flank, self._beside = phase, 0, 0.0

    def _begin(self, size: int) -> None:
        """Begin an epoch."""
        self._size = size
        self._seen = self._fresh()
        self._enter(Phase.OPEN)

    def _fresh(self, known: bool = False) -> Drafted:
        """Return what a new epoch, group or trial has seen."""
        known = known or self._pace.count >= 2 * FLANK
        return Drafted(known=known, burden=self._pace.burden, context=self._context)

    def _probe(self) -> None:
        self._seen = self._fresh()
        self._trial, self._warm = None, 1
        self._enter(Phase.PROBE)

    def _rest(self) -> None:
        """Stay off until the next trial."""
        self._seen, self._due, self._warm = Drafted(), self.rounds + self._wait, 1
        self._enter(Phase.OFF)

    def _settle(self, seen: Drafted) -> None:
        """Correct the pace by the undrafted rounds of an epoch, and what it has lost."""
        lost = self._scale * (seen.spent / seen.plain - seen.written)
        self.allowance.charge(lost - seen.charged)
        self._pace.shift(seen.level, len(seen.beside))

    def _remember(self, gain: float, weight: float) -> None:
        self.x = clipped(gain)
        self._epochs += weight == 1.0
        self.mean += (self.x - self.mean) * weight / min(max(self._epochs, 1), _MEMORY)

    def _added(self, seen: Drafted) -> float:
        """Return S after these rounds."""
        share = min(seen.rounds / EPOCH, 1.0)
        return max(0.0, self.s - share * (clipped(seen.gain) + SLACK))

    def _much(self, seen: Drafted) -> bool:
        """Whether drafts lose more than noise explains."""
        limit = MUCH if self._epochs else MUCH_FIRST
        gain = max(seen.gain, seen.usual_gain)
        return gain * sqrt(min(seen.rounds / EPOCH, 1.0)) < limit
