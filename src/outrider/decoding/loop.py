"""The loop around rounds: from prompts to finished requests."""

from collections.abc import Iterator, Sequence
from time import perf_counter

from outrider.core.types import (
    Prompt,
)
from outrider.decoding.generation import Generation
from outrider.decoding.round import Lane, Stage, run_round, settle, uncount
from outrider.protocols import (
    Request,
)


def open_lanes(
    stage: Stage,
    requests: Sequence[Request],
    prompts: Sequence[Prompt],
    previous: Sequence[Lane | None] | None = None,
) -> list[Lane]:
    """Read the prompts. Lanes in `previous` lend what they remember.

    At the outermost stage a drafter that does not learn from rows begins when it is first asked: a
    prompt that it need not know is not read, or indexed, for nothing.
    """
    old = previous or [None] * len(requests)
    begun = perf_counter()
    caches = stage.model.start(prompts, [lane.cache if lane else None for lane in old])
    if stage.tier == 0:
        for request, cache in zip(requests, caches, strict=True):
            request.target_cache = cache
    states = [lane.state if lane else None for lane in old]
    late = stage.tier == 0 and not stage.drafter.learns
    if not late:
        states = stage.drafter.begin(requests, states)
    lanes = [
        Lane(request, cache, state, begun=not late)
        for request, cache, state in zip(requests, caches, states, strict=True)
    ]
    for lane, before in zip(lanes, old, strict=True):
        if before is not None:
            lane.counters = before.counters.carried()
        looked = getattr(lane.cache, "looked", 0.0)
        lane.counters.add_seconds(prefill=perf_counter() - begun - looked)
        if looked:
            lane.counters.add_seconds(vision=looked)
        lane.counters.reading = getattr(lane.cache, "reading", None)
    return lanes


def generate(
    stage: Stage, generations: Sequence[Generation], previous: Sequence[Lane | None] | None = None
) -> Iterator[list[Generation]]:
    """Run rounds until every request has ended; yields those that advanced, round by round.

    A request leaves the batch when it ends, is cancelled between two rounds, or when the target's
    logits for it are unusable; the others go on. Raises `ContextError` before a token is written
    when a prompt does not fit: one with images is known to fit once it has been read.
    """
    requests = [g.request for g in generations]
    if any(request.output for request in requests):
        raise ValueError("a generation is run once; make a new one to write on")
    for generation in generations:
        generation.begun = perf_counter()
    lanes = open_lanes(stage, requests, [r.prompt for r in requests], previous)
    for generation, lane in zip(generations, lanes, strict=True):
        generation.open(lane, lane.counters, lane.cache.room)
    while active := [g for g in generations if g.running]:
        lanes = [g.lane for g in active]
        result = run_round(stage, lanes, [g.remaining - 1 for g in active])
        kept = [
            generation.advance(verdict, rows)
            for generation, verdict, rows in zip(active, result.verdicts, result.rows, strict=True)
        ]
        for lane, verdict, tokens in zip(lanes, result.verdicts, kept, strict=True):
            uncount(lane.counters, verdict, len(tokens))
            lane.cache.commit(tokens)
            lane.owed += tokens.tolist()
        if stage.drafter.learns:
            settle(stage, lanes)
        else:
            settle(stage, [g.lane for g in active if g.lane.begun and not g.running])
        yield active
