"""The record of a policy of the cache."""

from dataclasses import dataclass

from outrider.core.types import Exactness
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.protocols.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class KvMethod(Method[KvPolicy]):
    """The description of a policy of the cache. On a target it makes another model."""

    promise: Exactness = Exactness.LOSSY
