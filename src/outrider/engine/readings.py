"""Reports in results which parts of a long input were read."""

from collections.abc import Mapping, Sequence

from outrider.context.reading import Reading
from outrider.core.counters import Counters
from outrider.core.values import JsonValue
from outrider.decoding.generation import Generation


def reading_of(
    target: Counters, stages: Mapping[str, Counters]
) -> tuple[Reading | None, str | None]:
    """Return the record of the outermost tier that read a selection, and `target` or `drafters`.

    Both are None if everything was read.
    """
    if isinstance(target.reading, Reading):
        return target.reading, "target"
    for counters in stages.values():
        if isinstance(counters.reading, Reading):
            return counters.reading, "drafters"
    return None, None


def cache_figures(
    generation: Generation,
    below: Sequence[str],
    stages: Mapping[str, Counters],
    bytes_per_token: int,
) -> dict[str, JsonValue] | None:
    """Return what caches under a policy have kept; None if all caches keep all rows.

    Args:
        generation: the request.
        below: policies of the models below the target.
        stages: counters of the tiers below the target.
        bytes_per_token: size of the target's keys and values for one token.
    """
    if generation.sequence is None:
        return None
    cache = generation.sequence.cache
    report = cache.report
    found: dict[str, JsonValue] = {}
    if report.kv_policy:
        found |= {"policy": report.kv_policy, "bytes": report.kv_bytes}
        # The last written token is not in the cache yet.
        found["full_bytes"] = (len(cache.text) - 1) * bytes_per_token
    if below:
        found["draft_policy"] = ", ".join(dict.fromkeys(below))
        found["draft_bytes"] = sum(counters.kv_bytes for counters in stages.values())
    return found or None


def context_figures(
    generation: Generation, stages: Mapping[str, Counters], bytes_per_token: int
) -> dict[str, JsonValue] | None:
    """Return the figures of a request with a long input; None for other requests.

    Args:
        generation: the request.
        stages: counters of the tiers below the target.
        bytes_per_token: size of the target's keys and values for one token.
    """
    context = generation.request.prompt.context
    if context is None:
        return None
    reading, on = reading_of(generation.counters, stages)
    if reading is not None:
        return reading.to_dict() | {"on": on}
    # The last written token is not in the cache yet.
    held = len(generation.request.prompt) + max(len(generation.output) - 1, 0)
    everything = len(context.chunks), context.num_tokens
    counts = dict.fromkeys(("swaps", "refreshes", "recomputed_tokens"), 0)
    seconds = dict.fromkeys(("refresh_seconds", "select_seconds"), 0.0)
    return {
        "tokens": everything[1],
        "chunks": everything[0],
        "kept_chunks": everything[0],
        "kept_tokens": everything[1],
        "kv_tokens": held,
        "kv_bytes": held * bytes_per_token,
        **counts,
        **seconds,
        "selector": None,
        "encoder": None,
        "decisions": [],
        "on": None,
    }
