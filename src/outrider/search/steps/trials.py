"""Several continuations of one branch up to a condition, sampled as branches in the same forwards.

Trial 0 has the noise of the text itself, the others have that of further samples. Trials that begin
with equal tokens share their rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.sampling import Sampler
from outrider.sampling.noise import Purpose
from outrider.sampling.warps import Support
from outrider.search.task import Task
from outrider.search.tree import Node, TokenTree


@dataclass(slots=True)
class Place:
    """The end of a branch, with the distribution of the token that follows.

    Attributes:
        node: its last token.
        support: the tokens that may follow, after penalties, temperature and warps.
        logprobs: log-probabilities under the model, after penalties and bans, before the warps.
    """

    node: Node
    support: Support
    logprobs: Float[Tensor, " vocab"]

    @classmethod
    def of(
        cls, task: Task, node: Node, logits: Float[Tensor, " vocab"], text: Sequence[int]
    ) -> "Place":
        """Return the place after the tokens of `text`. Raises `LogitsError` if none may follow."""
        support = task.sampler.support(logits, text)
        return cls(node, support, task.logprobs(logits[None], [text])[0])

    @property
    def entropy(self) -> float:
        """Entropy of the warped distribution, in nats."""
        probs = self.support.probabilities()
        return float(torch.special.entr(probs).sum())

    def warped(self, token: int) -> float:
        """Return the log-probability of a token of the support under the warped distribution."""
        at = int(torch.searchsorted(self.support.ids, token))
        return float(torch.log_softmax(self.support.scores.double(), -1)[at])


@dataclass(slots=True)
class Trial:
    """A continuation.

    Attributes:
        place: the end of the branch before its last token.
        tokens: its tokens, of which the last is not read yet.
        warped: sum of their log-probabilities under the warped distributions.
        logprob: sum of their log-probabilities under the model.
        ended: whether it has met the condition, or is as long as it may be.
    """

    place: Place
    tokens: tuple[int, ...] = ()
    warped: float = 0.0
    logprob: float = 0.0
    ended: bool = False

    @property
    def perplexity(self) -> float:
        """Of its tokens, under the warped distributions that they were drawn from."""
        return math.exp(-self.warped / len(self.tokens))


@dataclass(slots=True)
class SegmentTrials:
    """Writes trials.

    Attributes:
        task: the prompt.
        tree: the branches.
        ends: whether a token is the last of its trial; end tokens always are.
    """

    task: Task
    tree: TokenTree
    ends: Callable[[int], bool]
    _samplers: list[Sampler] = field(default_factory=list[Sampler])

    def write(self, place: Place, text: Sequence[int], count: int, most: int) -> list[Trial]:
        """Sample continuations, all of them in the same forwards.

        Args:
            place: where they begin.
            text: the tokens up to there.
            count: number of trials.
            most: most tokens of a trial, at least 1.

        Raises:
            SearchStoppedError: a limit is reached.
            LogitsError: the logits cannot be used.
        """
        while len(self._samplers) < count:
            number = self.task.sampler.sample + len(self._samplers)
            self._samplers.append(self.task.sampler.for_sample(number))
        trials = [Trial(place) for _ in range(count)]
        while True:
            for trial, sampler in zip(trials, self._samplers, strict=False):
                if not trial.ended:
                    self._draw(trial, sampler, text, most)
            running = [trial for trial in trials if not trial.ended]
            if not running:
                return trials
            self._read(running, text)

    def _draw(self, trial: Trial, sampler: Sampler, text: Sequence[int], most: int) -> None:
        place = trial.place
        token = sampler.draw(place.support, len(text) + len(trial.tokens), Purpose.CHOICE)
        trial.tokens += (token,)
        trial.warped += place.warped(token)
        trial.logprob += float(place.logprobs[token])
        full = len(trial.tokens) >= most
        trial.ended = full or token in self.task.end_ids or self.ends(token)

    def _read(self, trials: Sequence[Trial], text: Sequence[int]) -> None:
        """Read the last token of each trial, in one forward; equal branches once."""
        firsts: dict[tuple[int, int], Trial] = {}
        for trial in trials:
            firsts.setdefault((id(trial.place.node), trial.tokens[-1]), trial)
        steps = [(trial.place.node, trial.tokens[-1]) for trial in firsts.values()]
        nodes, logits = self.tree.extend(steps)
        places = {
            key: Place.of(self.task, node, row, [*text, *trial.tokens])
            for (key, trial), node, row in zip(firsts.items(), nodes, logits, strict=True)
        }
        moved = [places[id(trial.place.node), trial.tokens[-1]] for trial in trials]
        for trial, place in zip(trials, moved, strict=True):
            trial.place = place
