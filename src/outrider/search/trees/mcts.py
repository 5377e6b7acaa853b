"""Monte Carlo tree search by P-UCB, for deterministic steps whose priors a model gives.

The search of PG-TD (arXiv 2303.05510). It differs from the PUCT of drafts
(`drafters/statistics/puct.py`): the value of a step is the best of its rewards, a step that was not
tried yet counts as 0 instead of coming first, and exploration grows with the logarithm of visits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, sqrt

Expand = Callable[[Sequence[int]], Sequence[tuple[int, float]]]
"""Maps a path of steps to its possible next steps with priors; empty if the path ends there."""

Evaluate = Callable[[Sequence[int]], float]
"""The reward of completing a path."""


@dataclass(slots=True)
class Choice:
    """A step of the tree, and the place that it leads to.

    Attributes:
        token: the step; -1 for the root.
        prior: its prior (P).
        visits: rollouts that took it (n).
        value: Q; 0 before the first rollout.
        children: the next steps; None until they are asked for.
    """

    token: int = -1
    prior: float = 1.0
    visits: int = 0
    value: float = 0.0
    children: "list[Choice] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PUcb:
    """Chooses a step by `Q + beta * P * sqrt(ln N) / (1 + n)` with
    `beta = ln((N + base + 1) / base) + constant`. N is the visits of the place, from 1.

    Attributes:
        constant: c, the weight of exploration.
        base: b; small values let the weight grow sooner.
        mean: whether Q is the mean of the rewards instead of their maximum.
    """

    constant: float = 4.0
    base: float = 10.0
    mean: bool = False

    def pick(self, place: Choice) -> Choice:
        """Return the next step; of equal ones, the first."""
        children = place.children or []
        total = 1 + sum(child.visits for child in children)
        beta = log((total + self.base + 1) / self.base) + self.constant
        weight = beta * sqrt(log(total))
        return max(children, key=lambda one: one.value + weight * one.prior / (1 + one.visits))

    def rollout(self, root: Choice, expand: Expand, evaluate: Evaluate) -> float:
        """Descend to a step that was not taken yet or to an end, evaluate it, and add the reward to
        all steps on the way. Return the reward."""
        path: list[int] = []
        way: list[Choice] = []
        place = root
        while not way or place.visits:
            if place.children is None:
                place.children = [Choice(token, prior) for token, prior in expand(path)]
            if not place.children:
                break
            place = self.pick(place)
            way.append(place)
            path.append(place.token)
        reward = evaluate(path)
        for step in way:
            self._note(step, reward)
        return reward

    def _note(self, step: Choice, reward: float) -> None:
        step.visits += 1
        if self.mean:
            step.value += (reward - step.value) / step.visits
        else:
            step.value = reward if step.visits == 1 else max(step.value, reward)
