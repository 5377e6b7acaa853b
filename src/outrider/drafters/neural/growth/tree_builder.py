"""The mutable tree of one request while its draft grows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from outrider.core.types import EMPTY_DRAFT, Draft, Draw, Stop, as_ids
from outrider.drafters.neural.growth.next_tokens import NextTokens, Picking
from outrider.sampling import Sampler
from outrider.sampling.noise import Purpose, stream_key

HOPELESS = 1e-12
"""No node is added at a place whose estimated chance of being reached is below this."""


@dataclass(slots=True)
class TreeBuilder:
    """One request's tree while it grows. Node -1 is the text.

    Each node has a `worth`, by which the finished draft is ordered and cut. For siblings in a fixed
    order, it is the estimated chance `reach` that the node is accepted. For siblings drawn at
    random, it is the chance that the *place* is tested: that its parent is accepted and its earlier
    siblings are not. This chance must be known before the token is drawn: keeping or cutting a
    place because of its token would bias the distribution of the kept tokens.

    Attributes:
        sampler: the sampler of the request.
        generated: tokens generated before the draft.
        depth: largest depth allowed, counted from 1.
        nodes: largest number of nodes allowed.
        picking: how siblings are selected.
        tier: separates the noise of different stages.
        stop: ends a path early.
    """

    sampler: Sampler
    generated: Sequence[int]
    depth: int
    nodes: int
    picking: Picking
    tier: int = 0
    stop: Stop | None = None
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    worth: list[float] = field(default_factory=list)
    reach: list[float] = field(default_factory=list)
    samples: list[list[int]] = field(default_factory=list)
    next_tokens: dict[int, NextTokens | None] = field(default_factory=dict)
    _keys: dict[int, int] = field(default_factory=dict)
    _floor: float = 0.0

    def __len__(self) -> int:
        return len(self.tokens)

    # -- properties of a node ---------------------------------------------------------------

    def depth_of(self, node: int) -> int:
        """Return the number of tokens on the path to `node`, including `node`."""
        return 0 if node < 0 else self.depths[node]

    def reach_of(self, node: int) -> float:
        """Return the estimated chance that `node` is accepted."""
        return 1.0 if node < 0 else self.reach[node]

    def path(self, node: int) -> list[int]:
        """Return the tokens from the first drafted one to `node`."""
        tokens: list[int] = []
        while node >= 0:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def key(self, node: int) -> int:
        """Return the key of the noise that selects the children of `node`."""
        if self.picking is Picking.COUPLED:
            s = self.sampler
            index = len(self.generated) + self.depth_of(node)
            return stream_key(s.seed, s.sample, index, Purpose.CHOICE)
        return self.branch_key(node)

    def branch_key(self, node: int) -> int:
        """Return a key that is unique to the node, computed from the path to it."""
        if node not in self._keys:
            s = self.sampler
            if node < 0:
                key = stream_key(s.seed, s.sample, len(self.generated), Purpose.BRANCH, self.tier)
            else:
                above = self.branch_key(self.parents[node])
                key = stream_key(above, self.tokens[node], 0, Purpose.BRANCH, self.tier)
            self._keys[node] = key
        return self._keys[node]

    def may_grow(self, node: int) -> bool:
        """Whether `node` may have children."""
        if self.depth_of(node) >= self.depth or not self.nodes:
            return False
        if node < 0:
            return True
        if self.tokens[node] in self.sampler.end_ids or self.worth[node] < self._floor:
            return False
        return self.stop is None or not self.stop(self._chances(node))

    def _chances(self, node: int) -> list[float]:
        """Return the inputs of a `Stop`: the chance of each token on the path to `node`."""
        assert self.stop is not None
        chances: list[float] = []
        while node >= 0:
            parent = self.parents[node]
            if self.stop.head is not None:
                read = self.next_tokens.get(node)
                chances.append(1.0 if read is None or read.kept is None else read.kept)
            else:
                chances.append(self.reach[node] / max(self.reach_of(parent), 1e-300))
            node = parent
        return chances[::-1]

    # -- growth -----------------------------------------------------------------------------

    def take(self, node: int, following: NextTokens | None) -> None:
        """Store the candidates after `node`; None: there is no usable distribution."""
        self.next_tokens[node] = following

    def candidates(self, node: int) -> int:
        """Return the number of children that `node` can have."""
        following = self.next_tokens.get(node)
        return 0 if following is None else len(following.tokens)

    def tried(self, parent: int, rank: int) -> float:
        """Return the estimated chance that the verifier tests the child of `parent` picked after
        `rank` others: `parent` is accepted, and its earlier children are rejected.
        """
        following = self.next_tokens[parent]
        assert following is not None
        return self.reach_of(parent) * max(1.0 - float(following.spent[rank]), 0.0)

    def place(self, parent: int, rank: int) -> float:
        """Return the worth of that child."""
        if self.picking is Picking.DRAWN:
            return self.tried(parent, rank)
        following = self.next_tokens[parent]
        assert following is not None
        return self.reach_of(parent) * float(following.chances[rank])

    def add(self, parent: int, rank: int) -> int:
        """Add the child of `parent` that is picked after `rank` others; return its number."""
        following = self.next_tokens[parent]
        assert following is not None
        worth = self.place(parent, rank)
        reach = min(self.reach_of(parent) * float(following.chances[rank]), worth)
        return self.append(parent, int(following.tokens[rank]), worth, reach)

    def append(self, parent: int, token: int, worth: float, reach: float) -> int:
        """Add a node with this token under `parent`; return its number."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depth_of(parent) + 1)
        self.worth.append(worth)
        self.reach.append(reach)
        self.samples.append([])
        return len(self.tokens) - 1

    def add_children(self, parent: int, width: int) -> list[int]:
        """Add up to `width` children of `parent`, in draw order; return their numbers."""
        if not self.may_grow(parent):
            return []
        added: list[int] = []
        for rank in range(min(width, self.candidates(parent))):
            if self.place(parent, rank) < HOPELESS:
                break
            added.append(self.add(parent, rank))
        return added

    def prune(self) -> None:
        """Stop growth of nodes that the final cut will drop; their children are never worth
        more."""
        if len(self.worth) > self.nodes:
            self._floor = float(np.partition(np.array(self.worth), -self.nodes)[-self.nodes])

    # -- result -----------------------------------------------------------------------------

    def ranked(self) -> list[int]:
        """Return the nodes to keep, ordered by worth, with parents and earlier siblings before
        others.
        """
        order = np.argsort(-np.array(self.worth), kind="stable")
        return order[: self.nodes].tolist()

    def draft(
        self,
        source: str,
        *,
        origin: str,
        draw: Draw,
        distributions: bool = False,
        references: bool = False,
    ) -> Draft:
        """Return the draft made of the nodes with the largest worth.

        Args:
            source: the tier that wrote the nodes.
            origin: the origin under which the draft is counted.
            draw: how siblings were selected.
            distributions: whether nodes carry the distribution they were drawn from.
            references: whether nodes carry the raw logits at their parent.
        """
        kept = self.ranked()
        if not kept:
            return EMPTY_DRAFT
        new = {old: i for i, old in enumerate(kept)} | {-1: -1}
        parents = [self.parents[node] for node in kept]
        table = self._distributions(set(parents)) if distributions else {}
        return Draft(
            tokens=as_ids([self.tokens[node] for node in kept]),
            parents=as_ids([new[parent] for parent in parents]),
            sources=(source,) * len(kept),
            draw=draw,
            probs=tuple(table.get(parent) for parent in parents) if distributions else None,
            reference=tuple(self._logits(p) for p in parents) if references else None,
            origin=origin,
            score=sum(self.reach[node] for node in kept),
            samples=tuple(tuple(self.samples[node]) for node in kept)
            if any(self.samples)
            else None,
        )

    def _distributions(self, nodes: set[int]) -> dict[int, Tensor]:
        """Return the distribution after each of `nodes`; none for tokens that were not drawn."""
        if self.picking is not Picking.DRAWN:
            return {}
        found: dict[int, Tensor] = {}
        for node in nodes:
            following = self.next_tokens[node]
            assert following is not None
            ids = following.support.ids
            width = int(ids.max()) + 1 if following.logits is None else following.logits.numel()
            found[node] = following.support.probs(width)
        return found

    def _logits(self, node: int) -> Tensor | None:
        following = self.next_tokens[node]
        return None if following is None else following.logits
