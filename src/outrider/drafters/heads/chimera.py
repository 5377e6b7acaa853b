"""Chimera: heads over encoded trigrams and one layer that reads the target's final states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from outrider.core.types import EMPTY_DRAFT, IntArray, as_ids
from outrider.drafters.given import Given
from outrider.drafters.heads.ranked_tree import RankedTree, given_heads, ranked_priors, ranked_tree
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.model_state import ModelState
from outrider.drafters.statistics.template import Cut
from outrider.drafters.statistics.tree_statistics import SHAPE
from outrider.models.caches.attaching import attach
from outrider.models.heads.chimera.model import ChimeraModel
from outrider.policies import Source
from outrider.protocols import Drafter, Segment
from outrider.protocols.method import Option, Paper, Value

_NODES = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Chimera(RankedTree):
    """Drafts a static tree from a head of Chimera (Zeng et al. 2024, arXiv 2402.15758).

    Each level is one forward of the head over the nodes of the level before that have children.
    The best token after a node stands on its first child. A chain is a tree of one path.
    """

    model: ChimeraModel
    name: str = "chimera"

    def _tokens(self, state: ModelState, tail: IntArray, cut: Cut) -> IntArray | None:
        cache, parents = state.cache, cut.parents.tolist()
        inner = set(parents)
        tokens = np.full(len(cut), -1, dtype=np.int64)
        texts: dict[int, list[int]] = {-1: state.written(tail)}
        segment, want = attach(cache, tail, EMPTY_DRAFT)
        nodes, rows = [-1], {-1: int(want[0])}
        for at in cut.levels:
            state.counters.forwards += 1
            [found] = self.model.forward([segment], [want])
            before = [texts[node] for node in nodes]
            ranked = self._best(state, found.logits[:, self.model.ids], before, [0] * len(nodes))
            if ranked is None:
                return None
            best = dict(zip(nodes, ranked, strict=True))
            level = [node for node in at.tolist() if parents[node] in best]
            for node in level:
                tokens[node] = best[parents[node]][cut.ranks[node]]
            nodes = [node for node in level if node in inner and tokens[node] >= 0]
            if not nodes:
                break
            for place, node in enumerate(nodes, start=cache.num_speculative):
                rows[node] = place
                texts[node] = [*texts[parents[node]], int(tokens[node])]
            above = as_ids([rows[parents[node]] for node in nodes])
            segment = Segment(cache, as_ids(tokens[nodes]), above)
            want = as_ids([rows[node] for node in nodes])
        return tokens


def chimera_of(
    model: ChimeraModel, nodes: int = _NODES, shape: str = "", *, chain: bool = False
) -> Chimera:
    """Return the drafter of a head (`ranked_tree`)."""
    return ranked_tree(Chimera, model, nodes, shape, chain=chain)


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Chimera:
    model = given_heads(given, "chimera", ChimeraModel)
    return chimera_of(model, **options)  # pyright: ignore[reportArgumentType]


def _priors(drafter: Chimera, given: Given) -> tuple[Source, ...]:
    each = given.draft_seconds(drafter.model)
    return ranked_priors(drafter, given, (drafter.template.depth + 1) * each)


METHOD = DrafterMethod(
    name="chimera",
    cls=Chimera,
    summary="a static tree of heads that read a trigram and the target's final states",
    paper=Paper("Chimera", "2402.15758"),
    needs='a head of Chimera for the target, from `outrider train head` with kind = "chimera"',
    memory="the head and its cache, and the final states of the target",
    tree=True,
    more=(Option("nodes", (int,), _NODES), Option("chain", (bool,), False), SHAPE),
    make=_make,
    priors=_priors,
    models=1,
    head=True,
)
