"""One reading of a prompt for several policies that act at its end.

Reading a long prompt takes most of the time of a measurement, and is the same for all policies that
read it whole. `Recorder` keeps the queries that any of them asks for; `under` then gives a fork of
the cache to one of them. `quality.py` checks on its first case that the result is that of a
reading of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from outrider.core.types import BoolArray, IntArray
from outrider.models.caches.eviction.cache import CompressedCache, Compression
from outrider.models.caches.eviction.policy import Choice, Eviction, KvPolicy, Shape, View
from outrider.models.caches.eviction.queries import QueryLog


@dataclass(frozen=True, kw_only=True)
class Recorder(KvPolicy):
    """Drops nothing, and asks for the queries of all `policies`."""

    policies: Sequence[KvPolicy]
    every: int = 0
    logs: list[QueryLog] = field(default_factory=list[QueryLog])

    def begin(self, shape: Shape) -> Eviction:
        """Return the policy for one text."""
        return _Recording(self, [policy.begin(shape) for policy in self.policies])


class _Recording(Eviction):
    def __init__(self, policy: Recorder, parts: Sequence[Eviction]) -> None:
        self._policy, self._parts = policy, parts

    def asks(self, rows: IntArray, prompt: int) -> BoolArray | None:
        wanted = [part.asks(rows, prompt) for part in self._parts]
        return np.logical_or.reduce([own for own in wanted if own is not None] or [rows < 0])

    def choose(self, view: View) -> Choice | None:
        self._policy.logs[:] = [view._cache._log.copy()]  # type: ignore[attr-defined]
        return None

    def copy(self) -> "Eviction":
        return self


def under(cache: CompressedCache, recorder: Recorder, policy: KvPolicy) -> CompressedCache:
    """Return a fork of a cache that `recorder` has read, compressed by `policy`."""
    twin, before = cache.fork(), cache.compression
    twin.compression = Compression(policy=policy, shape=before.shape, angles=before.angles)
    twin._begin()
    twin.prompt = cache.prompt
    eviction = policy.begin(before.shape)
    for rows, queries in recorder.logs[0].known:
        wanted = eviction.asks(rows, cache.prompt)
        if wanted is not None and wanted.any():
            twin._log.known.append((rows[wanted], queries[np.flatnonzero(wanted)]))
    twin._compress()
    return twin
