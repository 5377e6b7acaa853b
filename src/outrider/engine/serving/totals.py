"""What the engine counts, for health checks and metrics."""

from collections import deque
from dataclasses import dataclass, field
from time import perf_counter

from outrider.core.errors import GrammarError
from outrider.decoding import Session
from outrider.decoding.generation import Generation
from outrider.engine.serving.messages import EngineState
from outrider.engine.serving.prefixes import Prefixes
from outrider.engine.serving.sample import Sample
from outrider.engine.serving.scheduler import Scheduler
from outrider.policies.guard import Guard
from outrider.protocols import Learner
from outrider.sampling.walk import MaskTimes

_RECENT = 64
"""Number of ends from which the rate of ends is computed."""


@dataclass(slots=True, kw_only=True)
class Totals:
    """Counters of an engine. They only grow.

    Attributes:
        off: why drafting is off; empty while it is not.
        masks: the times of masks of grammars.
        learner: what counts its updates, if there is one.
        guard: the guard of drafting, if there is one.
    """

    off: str = ""
    masks: MaskTimes
    learner: Learner | None = None
    guard: Guard | None = None
    _counts: dict[str, int] = field(default_factory=dict[str, int])
    _accepted_at: list[int] = field(default_factory=list)
    _sources: dict[str, int] = field(default_factory=dict[str, int])
    _seconds: dict[str, float] = field(default_factory=dict[str, float])
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _heartbeat: float = field(default_factory=perf_counter)
    _slowest: float = 0.0
    _draft_budget: int = 0

    def count(self, **amounts: int) -> None:
        """Add to counters by name."""
        for name, amount in amounts.items():
            self._counts[name] = self._counts.get(name, 0) + amount

    def stepped(self, seconds: float) -> None:
        """Record a step."""
        self.count(steps=1)
        self._slowest = max(self._slowest, seconds)
        self._heartbeat = perf_counter()

    def round(self, session: Session) -> None:
        """Add the newest round: the seconds of its parts, and its drafted tokens."""
        for part, spent in session.seconds.items():
            self._seconds[part] = self._seconds.get(part, 0.0) + spent
        self._draft_budget = session.drafted

    def ended(self, sample: Sample, generation: Generation) -> None:
        """Add the counters of a sample that ended."""
        counters = generation.counters
        self._ends.append(perf_counter())
        self.count(
            drafts=counters.rounds - counters.undrafted_rounds,
            draft_tokens=counters.drafted,
            accepted_tokens=counters.accepted,
            changed_tokens=max(counters.changed, 0),
            grammar_errors=isinstance(generation.error, GrammarError),
            ended=1,
        )
        for at, count in enumerate(counters.accepted_at):
            self._accepted_at += [0] * (at + 1 - len(self._accepted_at))
            self._accepted_at[at] += count
        for source in generation.sources:
            self._sources[source] = self._sources.get(source, 0) + 1

    def state(self, scheduler: Scheduler, prefixes: Prefixes) -> EngineState:
        """Return a snapshot."""
        waiting = scheduler.waiting
        span = perf_counter() - self._ends[0] if len(self._ends) > 1 else 0.0
        counts = self._counts | {
            "prefix_queries": prefixes.queries,
            "prefix_hits": prefixes.hits,
        }
        if self.learner is not None:
            counts |= {f"learner_{name}": count for name, count in self.learner.counts.items()}
        return EngineState(
            running=len(scheduler.entries) - len(waiting),
            waiting=len(waiting),
            queued_tokens=sum(entry.tokens for entry in waiting),
            cache_used=scheduler.slots + prefixes.slots,
            cache_size=scheduler.limits.slots,
            max_num_seqs=scheduler.limits.max_num_seqs,
            heartbeat=self._heartbeat,
            slowest_step=self._slowest,
            draft_budget=self._draft_budget,
            drain_rate=len(self._ends) / span if span else 0.0,
            counters=counts,
            accepted_at=tuple(self._accepted_at),
            sources=dict(self._sources),
            round_seconds=dict(self._seconds),
            drafting_off=self.off or (self.guard.given_up if self.guard else ""),
            guard_states={} if self.guard is None else dict(self.guard.states),
            guard_switches={} if self.guard is None else dict(self.guard.switches),
            mask_counts=tuple(self.masks.counts),
            mask_seconds=self.masks.seconds,
        )
