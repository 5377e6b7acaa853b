"""Texts ordered by their log-probability plus a weighted reward, and beams of whole segments."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from outrider.search.candidate import Candidate
from outrider.search.steps.lookahead import Ahead, best_tokens, look_ahead
from outrider.search.task import Task
from outrider.search.tree import Node, TokenTree


def candidates_of(logprobs: Float[Tensor, " vocab"], count: int, end_ids: Set[int]) -> list[int]:
    """Return the `count` best tokens that go on, and the end tokens that are among the `count`
    best of all; the best first."""
    best = best_tokens(logprobs, count + len(end_ids))
    ends = [token for token in best[:count] if token in end_ids]
    on = [token for token in best if token not in end_ids][:count]
    return [token for token in best if token in ends or token in on]


def standardised(values: Sequence[float]) -> list[float]:
    """Subtract the mean, and divide by the standard deviation. Values that are all equal become 0;
    infinite ones stay, and do not count."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return list(values)
    mean = math.fsum(finite) / len(finite)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / len(finite))
    least = 1e-12 * max(abs(mean), 1.0)
    return [
        value if math.isinf(value) else (value - mean) / spread if spread > least else 0.0
        for value in values
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What texts are ordered by.

    Attributes:
        weight: of the reward.
        standardise: whether rewards are compared by their distance from the mean.
        length_penalty: exponent of the length by which sums are divided.
    """

    weight: float
    standardise: bool
    length_penalty: float

    def extra(self, rewards: Sequence[float]) -> list[float]:
        """Return what is added to the log-probability of each text."""
        values = standardised(rewards) if self.standardise else rewards
        return [self.weight * value if self.weight else 0.0 for value in values]

    def score(self, logprob: float, extra: float, length: int) -> float:
        """Return the score of one text."""
        return (logprob + extra) / max(length, 1) ** self.length_penalty

    def ranked(self, found: Sequence[Candidate], rewards: Sequence[float]) -> list[Candidate]:
        """Return texts with their scores among one another, the best first."""
        again = [
            replace(
                one,
                score=self.score(one.logprob or 0.0, more, len(one.token_ids)),
                about={**one.about, "reward": reward},
            )
            for one, more, reward in zip(found, self.extra(rewards), rewards, strict=True)
        ]
        return _sorted(again)


@dataclass(slots=True)
class Segment:
    """A branch that runs on or has ended.

    Attributes:
        node: its last token.
        logprob: sum of its log-probabilities.
        reward: of its text; 0 if it was not judged.
    """

    node: Node
    logprob: float = 0.0
    reward: float = 0.0


@dataclass(slots=True)
class Segments:
    """Beams that grow by a candidate token and its whole look-ahead at a time.

    Attributes:
        task: the prompt.
        tree: all branches.
        worth: what they are ordered by.
        width: branches that run on.
        branches: tokens of each branch that are compared.
        length: most tokens of a look-ahead.
        running: the running branches, the best first.
        ended: texts that have ended.
    """

    task: Task
    tree: TokenTree
    worth: Worth
    width: int
    branches: int
    length: int
    running: list[Segment] = field(default_factory=list[Segment])
    ended: list[Segment] = field(default_factory=list[Segment])

    def run(self) -> Sequence[Candidate]:
        """Write until `width` texts have ended, or all."""
        self.task.partial = lambda: _sorted(self._unjudged())
        logits = self.tree.first()[None]
        self.running = [Segment(self.tree.root)]
        while True:
            self._step(logits)
            if not self.running or len(self.ended) >= self.width:
                break
            ends = [one.node for one in self.running]
            steps = [(node.parent, node.token) for node in ends if node.parent is not None]
            nodes, logits = self.tree.extend(steps)
            for one, node in zip(self.running, nodes, strict=True):
                one.node = node
            self.tree.keep(nodes)
        found, rewards = self._unjudged(), [one.reward for one in self._all()]
        if self.worth.weight:
            return self.worth.ranked(found, rewards)
        return _sorted(found)

    def _step(self, logits: Float[Tensor, "branches vocab"]) -> None:
        """Grow every branch, and keep the best `width`."""
        task, worth = self.task, self.worth
        logprobs = task.logprobs(logits, [one.node.tokens for one in self.running])
        steps: list[tuple[Node, int]] = []
        before: list[float] = []
        for one, row in zip(self.running, logprobs, strict=True):
            for token in candidates_of(row, self.branches, task.end_ids):
                steps.append((one.node, token))
                before.append(one.logprob + float(row[token]))
        found: list[Ahead] = look_ahead(task, self.tree, steps, self.length - 1)
        texts = [(*one.parent.tokens, *one.tokens) for one in found]
        rewards = task.score(texts) if worth.weight else [0.0] * len(found)
        totals = [own + sum(one.logprobs) for own, one in zip(before, found, strict=True)]
        measured = zip(totals, worth.extra(rewards), texts, strict=True)
        scores = [worth.score(total, extra, len(text)) for total, extra, text in measured]
        order = sorted(range(len(found)), key=lambda i: -scores[i])
        kept = [i for i in order if scores[i] > -math.inf][: self.width] or order[:1]
        self.running = []
        for i in kept:
            branch = Segment(found[i].end, totals[i], rewards[i])
            over = texts[i][-1] in task.end_ids or len(texts[i]) >= task.most
            (self.ended if over else self.running).append(branch)

    def _all(self) -> list[Segment]:
        """Return the texts that have ended, and running ones if there are too few."""
        missing = max(self.width - len(self.ended), 0)
        return [*self.ended, *self.running[:missing]]

    def _unjudged(self) -> list[Candidate]:
        """Return the texts by log-probability alone."""
        found: list[Candidate] = []
        for place, one in enumerate(self._all()):
            tokens = one.node.tokens
            if tokens:
                score = self.worth.score(one.logprob, 0.0, len(tokens))
                finish = None if place < len(self.ended) else "unfinished"
                found.append(self.task.candidate(tokens, score, logprob=one.logprob, finish=finish))
        return found


def _sorted(found: Sequence[Candidate]) -> list[Candidate]:
    return sorted(found, key=lambda one: -one.score)
