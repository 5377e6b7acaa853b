"""Timers and counters: the integers from which all ratios are computed, and the time per part."""

from collections.abc import Sequence
from time import perf_counter

from outrider.core.counters import Counters, Tally
from outrider.core.tree import depths
from outrider.core.types import GRAMMAR, Draft, IntArray, Verdict
from outrider.decoding.stage import SequenceState


class Ledger:
    """Measures the time of one round and updates the counters at its end."""

    def __init__(self, sequences: Sequence[SequenceState], *, reading: bool = False) -> None:
        """Start the timer for a round of `sequences`; `reading`: prompts are read in its forward,
        so its time says nothing about the cost of a round."""
        self._sequences = sequences
        self._reading = reading
        self.seconds: dict[str, float] = {}
        """Of the parts of the round."""
        self._last = perf_counter()

    def lap(self, part: str) -> None:
        """Add the time since the last lap, or since the start, to `part`."""
        now = perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now

    def book(self, drafts: Sequence[Draft], verdicts: Sequence[Verdict]) -> None:
        """Add the round to the counters of its sequences."""
        draft, verify, accept = (self.seconds[p] for p in ("draft", "verify", "accept"))
        once = sum(own.once for own in drafts)
        drafting = max(draft - once, 0.0)
        for sequence, own, verdict in zip(self._sequences, drafts, verdicts, strict=True):
            count(sequence.counters, own, verdict)
            sequence.counters.add_seconds(
                prefill=once, draft=drafting, verify=verify, accept=accept
            )
        if not self._reading:
            _note_pace(self._sequences, drafts, drafting, verify + accept)


def count(counters: Counters, draft: Draft, verdict: Verdict) -> None:
    """Add one round of one request to its counters."""
    counters.rounds += 1
    counters.forwards += 1
    counters.undrafted_rounds += not len(draft)
    probes = draft.num_probes
    counters.drafted += len(draft) - probes
    counters.probed += probes
    counters.accepted += len(verdict.tokens)
    last = verdict.path[-1] if verdict.path else -1
    refused = verdict.next_token is not None and bool(draft.children(last))
    counters.refused += refused
    counters.next_tokens += verdict.next_token is not None
    counters.changed += sum(verdict.changed)
    for source in verdict.sources:
        counters.sources[source] = counters.sources.get(source, 0) + 1
    if len(draft) > probes:
        depth = depths(draft.parents)
        _add_at(counters.drafted_at, depth if draft.probe is None else depth[~draft.probe])
        _add_at(counters.accepted_at, depth[list(verdict.path)])
        tally = counters.tallies.setdefault(_origin(draft), Tally())
        tally.note(len(draft) - probes, len(verdict.tokens), refused, counters.now)
        tally.ranks.note(len(draft), verdict.path)


def uncount(counters: Counters, verdict: Verdict, kept: int) -> None:
    """Subtract the tokens of `verdict` after the first `kept`, because a stop or a limit cut them
    off. If more are kept, a grammar forced the others."""
    if (forced := kept - len(verdict.emitted)) > 0:
        counters.forced += forced
        counters.sources[GRAMMAR] = counters.sources.get(GRAMMAR, 0) + forced
        return
    counters.cut += len(verdict.emitted) - kept
    counters.changed -= sum(verdict.changed[kept:])
    for source in verdict.sources[kept:]:
        counters.sources[source] -= 1


def _origin(draft: Draft) -> str:
    return draft.origin or draft.sources[0]


def _note_pace(
    sequences: Sequence[SequenceState], drafts: Sequence[Draft], drafting: float, checking: float
) -> None:
    """Record the time of the round. Drafting time is recorded under the origin if all drafts have
    the same origin."""
    drafted = [
        (sequence, draft) for sequence, draft in zip(sequences, drafts, strict=True) if len(draft)
    ]
    rows = len(sequences) + sum(len(draft) for _, draft in drafted)
    for sequence in sequences:
        pace = sequence.counters.checked if drafted else sequence.counters.plain
        pace.note(checking, rows)
    if len({_origin(draft) for _, draft in drafted}) == 1:
        for sequence, draft in drafted:
            tally = sequence.counters.tallies.get(_origin(draft))
            if tally is not None:  # no tally for drafts that consist of probes only
                tally.pace.note(drafting / len(drafted), len(draft))


def _add_at(totals: list[int], depth: IntArray) -> None:
    for d in depth:
        totals.extend([0] * (int(d) + 1 - len(totals)))
        totals[int(d)] += 1
