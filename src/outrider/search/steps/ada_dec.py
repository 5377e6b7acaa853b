"""AdaDec: greedy decoding that looks ahead where the model is uncertain."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range, check_ranges
from outrider.core.types import Exactness
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.steps.lookahead import Ahead, best_tokens, entropies, look_ahead
from outrider.search.steps.writing import Writing
from outrider.search.task import Search, Task

RANGES = {
    "theta": Range(0.0, hint="Give an entropy in nats of at least 0"),
    "branches": Range(1, whole=True, hint="Give at least 1 branch"),
    "lookahead": Range(0, whole=True, hint="Give 0 or more tokens"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaDec(Search):
    """Takes the best token where the entropy of the distribution is below `theta`. Elsewhere it
    continues each of the best `branches` tokens greedily, and takes the one whose continuation has
    the largest mean log-probability.

    The continuation of that token is what greedy decoding writes as long as no entropy in it
    reaches `theta`; so these tokens are kept, and the text stays the same. The score of the result
    is its mean log-probability; `about` tells how often the search paused and how many tokens of
    continuations were kept.

    Attributes:
        theta: entropy in nats from which it looks ahead; `steps/threshold.py` fits one to a model.
        branches: tokens that are compared.
        lookahead: most tokens of a continuation.
        reuse: whether to keep the continuation; it changes the costs only.
    """

    theta: float = 1.0
    branches: int = 3
    lookahead: int = 5
    reuse: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the text."""
        text = Writing.begin(task)
        text.about = {"pauses": 0, "kept": 0}
        task.partial = text.candidates
        pauses = kept = 0
        while not text.done:
            logprobs = text.next()
            if self._sure(logprobs):
                token = int(logprobs.argmax())
                text.take(token, float(logprobs[token]))
                continue
            pauses += 1
            winner = self._winner(text, logprobs)
            count = self._greedy_tokens(task, text.tokens, winner) if self.reuse else 1
            kept += count - 1
            text.follow(winner, float(logprobs[winner.tokens[0]]), count)
            text.about = {"pauses": pauses, "kept": kept}
            text.prune()
        return text.candidates()

    def _sure(self, logprobs: Float[Tensor, " vocab"]) -> bool:
        if self.branches == 1 or self.lookahead == 0:
            return True  # the best token would win
        return entropies(logprobs[None])[0] < self.theta

    def _winner(self, text: Writing, logprobs: Float[Tensor, " vocab"]) -> Ahead:
        """Return the candidate whose continuation has the largest mean log-probability."""
        steps = [(text.node, token) for token in best_tokens(logprobs, self.branches)]
        found = look_ahead(text.task, text.tree, steps, self.lookahead, all_rows=True)
        return max(found, key=lambda one: mean_logprob(one, float(logprobs[one.tokens[0]])))

    def _greedy_tokens(self, task: Task, before: Sequence[int], winner: Ahead) -> int:
        """Return how many tokens of the winner this strategy would write anyway."""
        count = 1
        for row in winner.rows:
            text = [*before, *winner.tokens[:count]]
            if not self._sure(task.logprobs(row[None], [text])[0]):
                break
            count += 1
        return count


def mean_logprob(ahead: Ahead, first: float) -> float:
    """Return the mean log-probability of a candidate and its continuation.

    Args:
        ahead: the candidate.
        first: the log-probability of its first token.
    """
    return (first + sum(ahead.logprobs)) / len(ahead.tokens)


METHOD = Method(
    name="ada-dec",
    cls=AdaDec,
    summary="greedy decoding that compares continuations where the entropy is high",
    paper=Paper("AdaDec", "2506.08980"),
    promise=Exactness.LOSSY,
    memory="a row for each token of the text and of the continuations compared",
)
