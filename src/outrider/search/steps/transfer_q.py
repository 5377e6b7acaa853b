"""Transfer Q*: each token by the reward of what an aligned model would write after it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper
from outrider.sampling.noise import Purpose
from outrider.sampling.warps import Support
from outrider.search.candidate import Candidate
from outrider.search.scorers.scorer import FunctionScorer, Scorer
from outrider.search.steps.lookahead import Ahead, best_tokens, look_ahead
from outrider.search.steps.writing import Writing
from outrider.search.task import Search, Task
from outrider.search.tree import Node, TokenTree

RANGES = {
    "weight": Range(0.0, below=True, hint="Give a finite weight of at least 0"),
    "branches": Range(1, whole=True, hint="Give at least 1 branch"),
    "lookahead": Range(0, whole=True, optional=True, hint="Give 0 or more tokens"),
    "beta": Range(0.0, above=True, below=True, hint="Give a number above 0"),
}
DIRECT, INDIRECT = 20, 5
"""Tokens of a look-ahead in the experiments of the paper."""
_LARGEST = 1e30
"""Values beyond it count as this much, so that infinite rewards leave the policy finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferQ(Search):
    """Draws each token from `p(token) exp(weight * q(token))`, limited to the best `branches`
    tokens of the target. `q` is the reward, by the scorer, of the text after the aligned model has
    continued it greedily. At temperature 0 the best of them is taken.

    Without `baseline` (direct), the aligned model is taken to be aligned to the scorer's reward.
    With it (indirect), it is aligned to the reward `baseline`, and `q` is the reward times
    `exp((reward - baseline reward) / beta)`, its importance weight. A reward below 0 would turn the
    effect of that weight round, so the smallest reward of the candidates is subtracted first.

    Rewards are judged on texts that may be unfinished, so the scorer must make sense of them. The
    score of the result is the reward of the text if that was judged, else its mean log-probability;
    with `weight` 0 nothing is judged, and the text is that of the target with `top_k=branches`.

    Attributes:
        weight: of the reward; the inverse of the paper's alpha.
        branches: tokens that are compared.
        lookahead: most tokens of a continuation; None: 20, or 5 with a baseline.
        beta: how much the importance weights differ.
        aligned: the model that continues the text, with the vocabulary of the target, such as
            `generator.strategy.stage.model`; None: the target itself.
        baseline: the reward to which the aligned model was aligned.

    Raises:
        OptionError: an option is out of range, or the vocabularies differ.
    """

    weight: float = 1.0
    branches: int = 10
    lookahead: int | None = None
    beta: float = 2.0
    aligned: LanguageModel | None = None
    baseline: Scorer | Callable[[str], float] | None = None

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)

    @property
    def length(self) -> int:
        """Most tokens of a continuation."""
        if self.lookahead is not None:
            return self.lookahead
        return DIRECT if self.baseline is None else INDIRECT

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the text."""
        text = Writing.begin(task)
        writer = _Aligned.begin(self.aligned, task, text) if self.weight else None
        reward: float | None = None
        task.partial = text.candidates
        while not text.done:
            logprobs = text.next()
            tokens = best_tokens(logprobs, self.branches)
            own = logprobs[tokens].tolist()
            if writer is None:
                at = self._chosen(task, tokens, own, len(text.tokens))
                text.take(tokens[at], own[at])
                continue
            found = writer.look_ahead(tokens, self.length)
            rewards, values = self._values(task, [[*text.tokens, *one.tokens] for one in found])
            policy = tilted(own, values, self.weight)
            at = self._chosen(task, tokens, policy, len(text.tokens))
            writer.follow(found[at], own[at])
            reward = rewards[at] if len(found[at].tokens) == 1 else None
            text.about = {"reward": reward}
        return text.candidates(reward)

    def _values(
        self, task: Task, texts: Sequence[Sequence[int]]
    ) -> tuple[list[float], list[float]]:
        """Return the rewards of texts, and the estimates of the action value."""
        rewards = task.score(texts)
        if self.baseline is None:
            return rewards, rewards
        other = self.baseline
        if not isinstance(other, Scorer):
            other = FunctionScorer(other, title="baseline")
        before = task.judged_by(other, texts)
        return rewards, indirect(rewards, before, self.beta)

    def _chosen(
        self, task: Task, tokens: Sequence[int], policy: Sequence[float], index: int
    ) -> int:
        """Return the place of the token that is chosen."""
        temperature = task.sampler.params.temperature
        if temperature == 0:
            return max(range(len(tokens)), key=lambda i: policy[i])
        order = sorted(range(len(tokens)), key=lambda i: tokens[i])
        ids = torch.tensor([tokens[i] for i in order])
        scores = torch.tensor([policy[i] for i in order], dtype=torch.float64) / temperature
        drawn = task.sampler.draw(Support(ids, scores), index, Purpose.CHOICE)
        return list(tokens).index(drawn)


@dataclass(slots=True)
class _Aligned:
    """The aligned model beside the text: its tree is that of the text where it is the target.

    Attributes:
        text: the text.
        tree: branches in the cache of the aligned model.
        node: the last token of the text there.
        shared: whether it is the tree of the text.
    """

    text: Writing
    tree: TokenTree
    node: Node
    shared: bool

    @classmethod
    def begin(cls, aligned: LanguageModel | None, task: Task, text: Writing) -> "_Aligned":
        """Begin after the prompt.

        Raises:
            OptionError: the vocabularies differ.
        """
        target = task.stage.model
        if aligned is None or aligned is target:
            return cls(text, text.tree, text.node, True)
        sizes = aligned.info.vocab_size, target.info.vocab_size
        if sizes[0] != sizes[1]:
            raise OptionError(
                f"the aligned model has {sizes[0]} tokens, and the target has {sizes[1]}",
                hint="Give a model with the tokenizer of the target",
            )
        cache = task.read(aligned)
        tree = TokenTree(aligned, cache, task.account)
        return cls(text, tree, tree.root, False)

    def look_ahead(self, tokens: Sequence[int], length: int) -> list[Ahead]:
        """Continue the text with each of these tokens."""
        node = self.text.node if self.shared else self.node
        return look_ahead(self.text.task, self.tree, [(node, one) for one in tokens], length)

    def follow(self, chosen: Ahead, logprob: float) -> None:
        """Append the chosen token."""
        if self.shared:
            self.text.follow(chosen, logprob)
            self.text.prune()
            return
        self.text.take(chosen.tokens[0], logprob)
        if chosen.nodes:
            self.node = chosen.nodes[0]
            self.tree.keep([self.node])


def indirect(rewards: Sequence[float], baseline: Sequence[float], beta: float) -> list[float]:
    """Return the rewards, counted from the smallest one, times their importance weights.

    Args:
        rewards: of the candidates.
        baseline: rewards to which the aligned model was aligned.
        beta: divides the difference of both.
    """
    least = min((one for one in rewards if math.isfinite(one)), default=0.0)
    return [
        (own - least) * math.exp(min((own - other) / beta, 700.0)) if math.isfinite(own) else own
        for own, other in zip(rewards, baseline, strict=True)
    ]


def tilted(logprobs: Sequence[float], values: Sequence[float], weight: float) -> list[float]:
    """Return the log-probabilities of a policy among candidates: those of the target plus weighted
    values, normalised."""
    scores: Float[Tensor, " tokens"] = torch.tensor(logprobs, dtype=torch.float64)
    if weight:
        most = torch.tensor(values, dtype=torch.float64).clamp(-_LARGEST, _LARGEST)
        scores = scores + weight * most
    return torch.log_softmax(scores, -1).tolist()


METHOD = Method(
    name="transfer-q",
    cls=TransferQ,
    summary="each token by the reward of what an aligned model writes after it",
    paper=Paper("Transfer Q*", "2405.20495"),
    promise=Exactness.LOSSY,
    needs="a scorer",
    memory="a row for each token of the text and of the continuations compared; the same again for "
    "an aligned model",
)
