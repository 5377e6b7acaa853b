"""From prompts to lanes: the verifier reads, the drafter begins."""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from outrider.core.types import Prompt
from outrider.decoding.deferred import Deferred
from outrider.decoding.stage import Earlier, Lane, Stage, caches_of
from outrider.models.caches.prefill import note_reading
from outrider.protocols import Cache, Request


def outermost(stage: Stage) -> Stage:
    """`stage` with a drafter that begins when it is first asked."""
    if isinstance(stage.drafter, Deferred):
        return stage
    return replace(stage, drafter=Deferred(drafter=stage.drafter))


def open_lanes(
    stage: Stage,
    requests: Sequence[Request],
    prompts: Sequence[Prompt],
    previous: Sequence[Earlier | None] | None = None,
) -> list[Lane]:
    """Read the prompts. Lanes in `previous` lend what they remember."""
    old = previous or [None] * len(requests)
    begun = perf_counter()
    caches = stage.model.start(prompts, caches_of(old))
    return lanes_of(stage, requests, caches, old, begun)


def lanes_of(
    stage: Stage,
    requests: Sequence[Request],
    caches: Sequence[Cache],
    previous: Sequence[Earlier | None],
    begun: float,
) -> list[Lane]:
    """Lanes over caches that were made since `begun` (`perf_counter`)."""
    if stage.tier == 0:
        for request, cache in zip(requests, caches, strict=True):
            request.target_cache = cache
    states = stage.drafter.begin(requests, [lane.drafting if lane else None for lane in previous])
    lanes = [Lane(*parts) for parts in zip(requests, caches, states, strict=True)]
    for lane, before in zip(lanes, previous, strict=True):
        if before is not None:
            lane.counters = before.counters.carried()
        note_reading(lane.counters, lane.cache, perf_counter() - begun)
    return lanes
