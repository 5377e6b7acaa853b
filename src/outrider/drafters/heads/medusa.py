"""Medusa: heads on the target's last state, each of which drafts the token of one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from outrider.core.types import IntArray
from outrider.drafters.given import Given
from outrider.drafters.heads.ranked_tree import RankedTree, given_heads, ranked_priors, ranked_tree
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.model_state import ModelState
from outrider.drafters.statistics.template import Cut
from outrider.drafters.statistics.tree_statistics import SHAPE
from outrider.models.heads.medusa.model import MedusaModel
from outrider.policies import Source
from outrider.protocols import Drafter
from outrider.protocols.method import Option, Paper, Value

_NODES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Medusa(RankedTree):
    """Drafts a static tree from Medusa heads (Cai et al. 2024, arXiv 2401.10774).

    All heads read one state, that of the place before the last token of the text, in one product.
    The token of rank r of head k stands on every node of depth k + 1 and rank r. A chain is a
    tree of one path. Penalties see the text before the draft.
    """

    model: MedusaModel
    name: str = "medusa"

    def _tokens(self, state: ModelState, tail: IntArray, cut: Cut) -> IntArray | None:
        state.counters.forwards += 1
        count, written = len(cut.levels), state.written(tail)
        logits = self.model.after(state.cache)[len(tail) : len(tail) + count]
        ranked = self._best(state, logits, [written] * count, range(count))
        if ranked is None:
            return None
        tokens = np.empty(len(cut), dtype=np.int64)
        for level, at in enumerate(cut.levels):
            tokens[at] = ranked[level][cut.ranks[at]]
        return tokens


def medusa_of(
    model: MedusaModel, nodes: int = _NODES, shape: str = "", *, chain: bool = False
) -> Medusa:
    """Return the drafter of some heads (`ranked_tree`)."""
    return ranked_tree(Medusa, model, nodes, shape, chain=chain)


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Medusa:
    model = given_heads(given, "medusa", MedusaModel)
    return medusa_of(model, **options)  # pyright: ignore[reportArgumentType]


def medusa_priors(drafter: Medusa, given: Given) -> tuple[Source, ...]:
    """Return the expected results of the tree before the first measurement."""
    each = given.draft_seconds(drafter.model)
    return ranked_priors(drafter, given, drafter.model.heads * each)


METHOD = DrafterMethod(
    name="medusa",
    cls=Medusa,
    summary="a static tree of heads, each of which drafts the token of one place",
    paper=Paper("Medusa", "2401.10774"),
    needs="Medusa heads for the target",
    memory="the heads, and the last state of the target",
    tree=True,
    more=(Option("nodes", (int,), _NODES), Option("chain", (bool,), False), SHAPE),
    make=_make,
    priors=medusa_priors,
    models=1,
    head=True,
)
