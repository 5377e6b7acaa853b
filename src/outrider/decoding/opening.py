"""Creates sequences from prompts: the verifier reads the prompts, and the drafter begins."""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from outrider.core.types import Prompt
from outrider.decoding.deferred import Deferred
from outrider.decoding.stage import Earlier, SequenceState, Stage, caches_of
from outrider.models.caches.prefill import note_reading
from outrider.policies.guard import Guard
from outrider.protocols import Cache, Request


def outermost(stage: Stage, guard: Guard | None = None) -> Stage:
    """Return `stage` with a drafter that begins only when it first proposes. Its errors go to the
    guard, if there is one."""
    drafter = stage.drafter
    if isinstance(drafter, Deferred):
        drafter = drafter.drafter
    return replace(stage, drafter=Deferred(drafter=drafter, guard=guard))


def open_sequences(
    stage: Stage,
    requests: Sequence[Request],
    prompts: Sequence[Prompt],
    previous: Sequence[Earlier | None] | None = None,
) -> list[SequenceState]:
    """Read the prompts and create one sequence each. The state of sequences in `previous` is
    reused."""
    old = previous or [None] * len(requests)
    begun = perf_counter()
    caches = stage.model.start(prompts, caches_of(old))
    return sequences_of(stage, requests, caches, old, begun)


def sequences_of(
    stage: Stage,
    requests: Sequence[Request],
    caches: Sequence[Cache],
    previous: Sequence[Earlier | None],
    begun: float,
) -> list[SequenceState]:
    """Create sequences for caches whose reading started at `begun` (`perf_counter`)."""
    if stage.tier == 0:
        for request, cache in zip(requests, caches, strict=True):
            request.target_cache = cache
    states = stage.drafter.begin(
        [request.for_drafts() for request in requests],
        [sequence.drafting if sequence else None for sequence in previous],
    )
    sequences = [SequenceState(*parts) for parts in zip(requests, caches, states, strict=True)]
    for sequence, before in zip(sequences, previous, strict=True):
        if before is not None:
            sequence.counters = before.counters.carried()
        note_reading(sequence.counters, sequence.cache, perf_counter() - begun)
    return sequences
