"""Casts caches of the protocol type to the type that a runner reads."""

from typing import TypeVar

from outrider.core.errors import StrategyError
from outrider.models.caches.bookkeeping import CacheBook
from outrider.protocols import Cache

C = TypeVar("C", bound=CacheBook)


def narrowed(cache: Cache, kind: type[C], name: str) -> C:
    """Return `cache`, checked to be of the kind that model `name` reads. Raises `StrategyError`."""
    if isinstance(cache, kind):
        return cache
    raise StrategyError(
        f"{name} reads a {kind.__name__}, but a {type(cache).__name__} is given",
        hint="Give a model only caches that it has created",
    )
