"""The candidate tokens after a node of a growing tree, in the order in which siblings are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.types import IntArray
from outrider.sampling.noise import gumbel, signed
from outrider.sampling.warps import Support

FloatArray = NDArray[np.float64]


class Picking(StrEnum):
    """How the siblings of a tree are selected."""

    BEST = "best"
    """The most likely first."""
    COUPLED = "coupled"
    """The most likely first after the noise of the verifier's choices is added: where the two
    distributions agree, the first sibling equals the verifier's choice."""
    DRAWN = "drawn"
    """A sample without replacement, with separate noise for each node: its distribution is known,
    and the selection is independent of all other nodes."""


@dataclass(frozen=True, slots=True)
class NextTokens:
    """The candidates after one node, in draw order.

    Attributes:
        tokens: `[candidates]` ids.
        logs: `[candidates]` their log-probabilities under the drafter's own distribution.
        keys: `[candidates]` the same plus noise, if there is any; descending.
        chances: `[candidates]` estimated chance that the verifier keeps this candidate.
        spent: `[candidates]` the sum of the chances of the candidates before each.
        support: the distribution itself, with log-probabilities as scores.
        logits: the raw row from which it was computed, if there is one.
        kept: estimated chance that the verifier keeps the node itself, if a trained head predicts
            it.
    """

    tokens: IntArray
    logs: FloatArray
    keys: FloatArray
    chances: FloatArray
    spent: FloatArray
    support: Support
    logits: Float[Tensor, " vocab"] | None = None
    kept: float | None = None

    @classmethod
    def of(
        cls,
        support: Support,
        picking: Picking,
        *,
        key: int,
        most: int,
        spread: float = 1.0,
        logits: Float[Tensor, " vocab"] | None = None,
        kept: float | None = None,
    ) -> "NextTokens":
        """Sort the tokens in `support` into draw order.

        The verifier chooses the maximum of log p + noise; the drafter knows log q + the same noise.
        If log p - log q is Gumbel noise of scale `spread`, independent over tokens, then the choice
        is x with probability softmax((log q + noise) / spread). This is the estimate for `COUPLED`,
        and without noise (temperature 0) for `BEST`. Tokens that are `DRAWN` are estimated by q.

        Args:
            support: candidate tokens and their scores, which need not be normalised.
            picking: how siblings are selected.
            key: of the stream of noise, if there is any.
            most: largest number of candidates to keep.
            spread: scale of the disagreement between the two models, in nats.
            logits: the raw row, stored in the result.
            kept: stored in the result.
        """
        scores = support.scores.double()
        own = scores.log_softmax(-1)
        noisy = own if picking is Picking.BEST else own + gumbel(signed(key), support.ids)
        keys = noisy.numpy()
        order = _largest(keys, most)
        if picking is Picking.DRAWN:
            chances = own.exp().numpy()[order]
        else:
            chances = (noisy / spread).softmax(-1).numpy()[order]
        return cls(
            tokens=support.ids.numpy()[order],
            logs=own.numpy()[order],
            keys=keys[order],
            chances=chances,
            spent=_before(chances),
            support=Support(support.ids, own),
            logits=logits,
            kept=kept,
        )

    @classmethod
    def of_rows(
        cls,
        scores: Float[Tensor, "rows vocab"],
        picking: Picking,
        *,
        keys: Sequence[int],
        most: int,
        spread: float = 1.0,
        logits: Float[Tensor, "rows vocab"],
        kept: Sequence[float | None],
    ) -> list["NextTokens | None"]:
        """Return the same for many rows in which every token is a candidate, in a few operators;
        None for rows with NaN.
        """
        own = scores.double().log_softmax(-1)
        usable = (own == own).all(-1).tolist()
        ids = torch.arange(scores.shape[-1])
        noisy = own
        if picking is not Picking.BEST:
            own_keys = torch.tensor([[signed(key)] for key in keys])
            noisy = own + gumbel(own_keys, ids.expand_as(own))
        top = noisy.topk(min(most, scores.shape[-1]), dim=-1)
        logs = own.gather(-1, top.indices)
        if picking is Picking.DRAWN or (picking is Picking.BEST and spread == 1.0):
            chances = logs.exp()
        else:
            total = (noisy / spread).logsumexp(-1, keepdim=True)
            chances = (top.values / spread - total).exp()
        parts = [part.numpy() for part in (top.indices, logs, top.values, chances)]
        return [
            cls(
                tokens=parts[0][row],
                logs=parts[1][row],
                keys=parts[2][row],
                chances=parts[3][row],
                spent=_before(parts[3][row]),
                support=Support(ids, own[row]),
                logits=logits[row],
                kept=kept[row],
            )
            if fine
            else None
            for row, fine in enumerate(usable)
        ]


def _before(chances: FloatArray) -> FloatArray:
    spent = np.zeros_like(chances)
    np.cumsum(chances[:-1], out=spent[1:])
    return spent


def _largest(keys: FloatArray, most: int) -> IntArray:
    """Return the indices of the `most` largest keys, the largest first; ties go to the lower
    index.
    """
    if len(keys) <= 2 * most:
        return np.argsort(-keys, kind="stable")[:most]
    best = np.sort(np.argpartition(-keys, most)[:most])
    return best[np.argsort(-keys[best], kind="stable")]
