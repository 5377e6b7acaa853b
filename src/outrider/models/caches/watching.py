"""Chooses the layers whose hidden states a forward keeps, and returns the states by text."""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError, StrategyError
from outrider.core.types import Rows
from outrider.models.caches.bookkeeping import CacheBook


def watch(
    cache: CacheBook | None, layers: Sequence[int] | None, num_layers: int, name: str
) -> None:
    """Implement `HiddenStates.watch` for a cache of model `name`; None marks a cache of another
    model.

    Raises:
        OptionError: a layer does not exist.
        StrategyError: the cache belongs to another model.
    """
    if cache is None:
        raise StrategyError(
            f"hidden states of {name} are requested from a cache that another model has filled",
            hint="Watch a cache that this model has created",
        )
    check_states(layers or (), num_layers, name)
    cache.watched = None if layers is None else tuple(layers)


def check_states(layers: Sequence[int], num_layers: int, name: str) -> None:
    """Raise `OptionError` for a number that no hidden state of the model has."""
    for layer in layers:
        if not 0 <= layer <= num_layers:
            raise OptionError(
                f"{name} has no hidden state {layer}: it has {num_layers} layers",
                hint=f"States are numbered from 0, the embeddings, to {num_layers}",
            )


def not_kept(name: str) -> StrategyError:
    """Return the error for a cache without stored hidden states."""
    return StrategyError(
        f"the cache of {name} stores no hidden states",
        hint="Read the prompt with the model that `hidden_states.keeping(layers)` returns",
    )


def watched_layers(caches: Sequence[CacheBook]) -> tuple[int, ...]:
    """Return all layers watched on any of the caches, ascending."""
    if all(cache.watched is None for cache in caches):
        return ()
    return tuple(sorted({layer for cache in caches for layer in cache.watched or ()}))


def with_states(
    out: Sequence[Rows],
    caches: Sequence[CacheBook],
    layers: Sequence[int],
    states: Float[Tensor, "layers rows hidden"],
) -> list[Rows]:
    """Split rows of several texts; each gets the states that are watched on its cache."""
    counts = [len(rows.logits) for rows in out]
    split = zip(out, caches, states.split(counts, dim=1), strict=True)
    place = {layer: i for i, layer in enumerate(layers)}
    return [
        rows
        if cache.watched is None
        else replace(rows, states=own[[place[layer] for layer in cache.watched]])
        for rows, cache, own in split
    ]
