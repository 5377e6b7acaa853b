"""Monte Carlo tree search by PUCT, for any tree with priors and a reward function.

The form with a slowly growing exploration weight of AlphaZero (Silver et al., 2018), as ADED (arXiv
2407.12021) uses it to select drafts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, sqrt
from time import perf_counter

Expand = Callable[[Sequence[int]], Sequence[tuple[int, float]]]
"""Maps a path of tokens to its possible next tokens with priors; empty if the path ends there."""

Evaluate = Callable[[Sequence[int]], float]
"""The reward of continuing a path."""


@dataclass(slots=True)
class PuctNode:
    """A node of the search tree.

    Attributes:
        token: the step that leads to the node.
        prior: the prior weight of the step (P).
        visits: number of searches that passed through the node (n).
        score: the sum of their rewards; `score / visits` is Q.
        children: None until the node is expanded.
    """

    token: int
    prior: float
    visits: int = 0
    score: float = 0.0
    children: "list[PuctNode] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Puct:
    """The search: `iterations` times, descend to a leaf, expand it, evaluate it, add the reward.

    The value of a child is `Q + (base + ln((N + growth + 1) / growth)) * P * sqrt(N) / (1 + n)`,
    with N the visits of its parent; a child without visits comes first.

    Attributes:
        iterations: largest number of searches.
        depth: largest path length.
        base: the constant part of the exploration weight (c1).
        growth: number of visits after which the weight begins to grow (c2).
        max_seconds: no search begins after this time; the tree then depends on the clock.
    """

    iterations: int = 150
    depth: int = 4
    base: float = 32.0
    growth: float = 8.0
    max_seconds: float = float("inf")

    def search(self, expand: Expand, evaluate: Evaluate) -> PuctNode:
        """Run the search and return the root of the tree, with visits and scores."""
        root, depth = PuctNode(-1, 1.0), self.depth
        deadline = perf_counter() + self.max_seconds
        for _ in range(self.iterations):
            way, path = [root], []
            node = root
            while node.children:
                node = self.pick(node)
                way.append(node)
                path.append(node.token)
            if node.children is None and len(path) < depth:
                node.children = [PuctNode(token, prior) for token, prior in expand(path)]
                if node.children:
                    node = node.children[-1]
                    way.append(node)
                    path.append(node.token)
            reward = evaluate(path)
            for node in way:
                node.visits += 1
                node.score += reward
            if perf_counter() > deadline:
                break
        return root

    def pick(self, node: PuctNode) -> PuctNode:
        """Return the child with the largest value, which the search visits next."""
        total = node.visits
        weight = (self.base + log((total + self.growth + 1) / self.growth)) * sqrt(total)
        children = node.children or []
        chosen, best = children[0], -1.0
        for child in children:
            visits = child.visits
            if not visits:
                return child
            worth = child.score / visits + weight * child.prior / (1 + visits)
            if worth > best:
                chosen, best = child, worth
        return chosen
