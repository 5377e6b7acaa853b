"""The states of several engines as one, in the clock of this process."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeVar

from outrider.engine.serving.messages import EngineState, Submission
from outrider.policies.guard import State

K = TypeVar("K")
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a replica says about itself.

    Attributes:
        instance: another value after each start, when caches and counters are empty.
        state: its engine.
        now: `perf_counter` of the replica when it wrote this.
        sick: why it cannot serve: its engine is dead or stalled; empty if it can.
        draining: it takes no further requests.
    """

    instance: str
    state: EngineState
    now: float
    sick: str = ""
    draining: bool = False


def moved(submission: Submission, seconds: float) -> Submission:
    """Return a submission whose times are those of another clock, which shows `seconds` more."""

    def later(time: float | None) -> float | None:
        return None if time is None else time + seconds

    return replace(
        submission,
        received=submission.received + seconds,
        begin_by=later(submission.begin_by),
        first_token_by=later(submission.first_token_by),
        finish_by=later(submission.finish_by),
    )


def state_of(report: Report, now: float) -> EngineState:
    """Return the state of a report, with its times in the clock that shows `now`."""
    return replace(report.state, heartbeat=report.state.heartbeat + now - report.now)


def merged(states: Sequence[EngineState], past: EngineState) -> EngineState:
    """Return the state of all engines together.

    Args:
        states: the engines that run.
        past: what ended engines have counted (`retired`), so that totals never shrink.
    """
    every = (*states, past)
    off = next((state.drafting_off for state in states if state.drafting_off), "")
    return EngineState(
        running=sum(state.running for state in states),
        waiting=sum(state.waiting for state in states),
        queued_tokens=sum(state.queued_tokens for state in states),
        cache_used=sum(state.cache_used for state in states),
        cache_size=sum(state.cache_size for state in states),
        max_num_seqs=sum(state.max_num_seqs for state in states),
        heartbeat=max(state.heartbeat for state in every),
        slowest_step=max(state.slowest_step for state in every),
        draft_budget=sum(state.draft_budget for state in states),
        drain_rate=sum(state.drain_rate for state in states),
        drafting_off=off,
        guard_states=_worst(state.guard_states for state in states),
        guard_switches=_added(state.guard_switches for state in every),
        counters=_added(state.counters for state in every),
        accepted_at=tuple(map(sum, zip_longest(*(s.accepted_at for s in every), fillvalue=0))),
        sources=_added(state.sources for state in every),
        round_seconds=_added(state.round_seconds for state in every),
        mask_counts=tuple(map(sum, zip_longest(*(s.mask_counts for s in every), fillvalue=0))),
        mask_seconds=sum(state.mask_seconds for state in every),
    )


def retired(past: EngineState, last: EngineState) -> EngineState:
    """Return `past` with what an engine that ended has counted."""
    everything = merged([last], past)
    return EngineState(
        heartbeat=everything.heartbeat,
        slowest_step=past.slowest_step,
        counters=everything.counters,
        guard_switches=everything.guard_switches,
        accepted_at=everything.accepted_at,
        sources=everything.sources,
        round_seconds=everything.round_seconds,
        mask_counts=everything.mask_counts,
        mask_seconds=everything.mask_seconds,
    )


_STATES = tuple(State)


def _worst(tables: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return for each size of batch the state of the replica that drafts least."""
    found: dict[str, str] = {}
    for table in tables:
        for sizes, state in table.items():
            found[sizes] = max(found.get(sizes, State.ON), state, key=_STATES.index)
    return found


def _added(tables: Iterable[Mapping[K, N]]) -> dict[K, N]:
    found: dict[K, N] = {}
    for table in tables:
        for name, amount in table.items():
            found[name] = found.get(name, 0) + amount
    return found
