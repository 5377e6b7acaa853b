"""One step of beam search, shared by all strategies that keep the best few branches.

It follows `transformers`: of all continuations of the running beams, the best `2 * num_beams` are
looked at. Those among the first `num_beams` that end are finished texts; the best others run on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.search.candidate import Candidate
from outrider.search.task import Task
from outrider.search.tree import Node, TokenTree

Penalty = Callable[[Float[Tensor, "beams vocab"]], Float[Tensor, "beams vocab"]]
"""Changes what continuations are ordered by; the log-probability of a beam stays that of the model.
"""


@dataclass(slots=True)
class Beam:
    """A running branch.

    Attributes:
        node: its last token.
        logprob: sum of its log-probabilities under the model.
        ranked: sum of what its tokens were ordered by; equal to `logprob` without a penalty.
        row: its row in the newest logits.
    """

    node: Node
    logprob: float = 0.0
    ranked: float = 0.0
    row: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished text.

    Attributes:
        tokens: its tokens, the end token included if it has one.
        logprob: sum of its log-probabilities under the model.
        ranked: what it was ordered by, before the length penalty.
        score: the same, divided by its length to the power of the length penalty.
    """

    tokens: tuple[int, ...]
    logprob: float
    ranked: float
    score: float


@dataclass(slots=True, kw_only=True)
class Beams:
    """The running beams of one group, and its finished texts.

    Attributes:
        task: the prompt.
        width: beams that run.
        length_penalty: exponent of the length by which sums are divided.
        early_stopping: whether to stop at `width` finished texts; else when no running beam can
            become better than the worst of them.
        most: most tokens of a text.
        running: running beams, the best first.
        ended: finished texts, the best first; at most `width`.
    """

    task: Task
    width: int
    length_penalty: float = 1.0
    early_stopping: bool = False
    most: int
    running: list[Beam] = field(default_factory=list[Beam])
    ended: list[Ended] = field(default_factory=list[Ended])

    def chosen(
        self, logprobs: Float[Tensor, "beams vocab"], penalty: Penalty | None = None
    ) -> list[tuple[Beam, int, float, float]]:
        """Choose the continuations of the running beams.

        Args:
            logprobs: the log-probabilities after each running beam.
            penalty: changes what they are ordered by; None: nothing.

        Returns:
            Beam, token, log-probability of the branch with it, and what it is ordered by, of at
            most `width` branches that run on. Branches that end are added to `ended`.
        """
        own = logprobs if penalty is None else penalty(logprobs)
        before = torch.tensor([beam.ranked for beam in self.running], dtype=own.dtype)
        sums = (own.cpu() + before[:, None]).flatten()
        count = min((1 + max(len(self.task.end_ids), 1)) * self.width, sums.numel())
        values, places = torch.topk(sums, count)
        vocab = own.shape[1]
        found: list[tuple[Beam, int, float, float]] = []
        for rank, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            if value == float("-inf"):
                break
            beam, token = self.running[place // vocab], place % vocab
            total = beam.logprob + float(logprobs[place // vocab, token])
            if token in self.task.end_ids:
                if rank < self.width:
                    self._finish((*beam.node.tokens, token), total, value)
            elif len(found) < self.width:
                found.append((beam, token, total, value))
        return found

    def advance(
        self, chosen: Sequence[tuple[Beam, int, float, float]], nodes: Sequence[Node], row: int = 0
    ) -> None:
        """Let the chosen branches run on: `nodes` are their new nodes, whose logits begin at
        `row`."""
        self.running = [
            Beam(node, total, ranked, row + i)
            for i, (node, (_, _, total, ranked)) in enumerate(zip(nodes, chosen, strict=True))
        ]

    def give_up(self) -> None:
        """Count the running beams as texts that were cut at the limit."""
        for beam in self.running:
            self._finish(beam.node.tokens, beam.logprob, beam.ranked)
        self.running = []

    def _finish(self, tokens: tuple[int, ...], logprob: float, ranked: float) -> None:
        score = ranked / max(len(tokens), 1) ** self.length_penalty
        self.ended.append(Ended(tokens, logprob, ranked, score))
        self.ended.sort(key=lambda one: -one.score)
        del self.ended[self.width :]

    @property
    def done(self) -> bool:
        """Whether nothing that runs can improve the finished texts."""
        if not self.running:
            return True
        if len(self.ended) < self.width:
            return False
        if self.early_stopping:
            return True
        length = self.running[0].node.depth
        best = max(beam.ranked for beam in self.running) / max(length, 1) ** self.length_penalty
        return self.ended[-1].score >= best

    def candidates(self) -> list[Candidate]:
        """Return the finished texts, and the running beams if there are too few."""
        found = list(self.ended)
        if len(found) < self.width:
            for beam in self.running[: self.width - len(found)]:
                tokens = beam.node.tokens
                score = beam.ranked / max(len(tokens), 1) ** self.length_penalty
                found.append(Ended(tokens, beam.logprob, beam.ranked, score))
        return [
            self.task.candidate(one.tokens, one.score, logprob=one.logprob, ranked=one.ranked)
            for one in found
        ]


def begin(beams: Beams, tree: TokenTree) -> Float[Tensor, "1 vocab"]:
    """Start with the prompt as the only beam; return its logits."""
    beams.running = [Beam(tree.root)]
    return tree.first()[None]
