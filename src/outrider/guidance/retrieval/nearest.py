"""Finds similar contexts of a store, and averages what followed them."""

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.guidance.retrieval.store import LogitStore


class Nearest:
    """Averages the logits of similar contexts, one row at a time.

    The work of a row has the same shape whatever else is read, so that its bits do not depend on
    other rows. The mean of all states is subtracted before cosines are taken: states of one layer
    share a large part, which makes all cosines high.

    Args:
        store: what is searched.
        count: how many contexts are averaged.
        least: contexts with a smaller cosine are left out.
        temperature: divides the cosines before they become weights; small ones prefer the nearest.
        centred: whether the mean is subtracted; a store of one context is never centred.
    """

    def __init__(
        self, store: LogitStore, *, count: int, least: float, temperature: float, centred: bool
    ) -> None:
        self._store = store
        self._count, self._least, self._temperature = count, least, temperature
        states = store.states.double()
        self._middle = torch.zeros(states.shape[1], dtype=torch.float64)
        if centred and len(states) > 1:
            self._middle = states.mean(dim=0)
        self._directions = _unit(states - self._middle)

    def similarities(self, state: Float[Tensor, " hidden"]) -> Float[Tensor, " entries"]:
        """Return the cosine of a state and each context."""
        here = _unit((state.detach().cpu().double() - self._middle)[None])[0]
        return self._directions @ here

    def after(self, state: Float[Tensor, " hidden"]) -> Float[Tensor, " vocab"] | None:
        """Return the average logits after contexts like `state`; None if there are none."""
        if not len(self._store):
            return None
        best = self.similarities(state).topk(min(self._count, len(self._store)))
        alike = best.values >= self._least
        if not bool(alike.any()):
            return None
        weights = torch.softmax(best.values[alike] / self._temperature, dim=0)
        total = torch.zeros(self._store.origin.vocab_size, dtype=torch.float64)
        for weight, entry in zip(weights, best.indices[alike].tolist(), strict=True):
            tokens = self._store.tokens[entry].long()
            total[tokens] += weight * self._store.logits[entry].double()
        return total


def _unit(states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
    """Divide each row by its length; a row of zeros stays."""
    return states / states.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(states.dtype).tiny)
