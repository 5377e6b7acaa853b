"""PG-TD: Monte Carlo tree search over tokens, for texts that can be tested, such as programs.

The model proposes the next tokens of a beginning and completes it greedily; the reward is that of
the completed text. The result is the completed text with the best reward.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp

from outrider.core.checks import Range, check_ranges, shown
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.listing import Best
from outrider.search.task import Search, Task
from outrider.search.trees.completions import Completions, Text
from outrider.search.trees.mcts import Choice, PUcb

PRIORS = ("model", "uniform")
_RANGES = {
    "rollouts": Range(1, whole=True, hint="Give at least 1 rollout"),
    "children": Range(1, whole=True, hint="Give at least 1 token"),
    "constant": Range(0.0, 1e6),
    "base": Range(0.0, 1e9, above=True),
    "enough": Range(optional=True),
}


@dataclass(slots=True, kw_only=True)
class Planned:
    """What a search has found.

    Attributes:
        task: the prompt.
        root: the tree.
        completions: what the model has written.
        rewards: each distinct text with its reward, in the order in which they were found.
        history: the reward of each rollout.
    """

    task: Task
    completions: Completions
    root: Choice = field(default_factory=Choice)
    rewards: dict[Text, float] = field(default_factory=dict[Text, float])
    history: list[float] = field(default_factory=list[float])

    def candidates(self) -> list[Candidate]:
        """Return the texts in the order of their rewards; of equal ones, the first found first."""
        numbered = enumerate(self.rewards.items())
        return [
            self.task.candidate(text.tokens, reward, finish=text.finish, found=number)
            for number, (text, reward) in sorted(numbered, key=lambda pair: -pair[1][1])
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PgTd(Search):
    """Plans with `rollouts` completions. The score of a text is its reward: that of the scorer, and
    0 for a text that is cut at the limit of tokens, which is not judged.

    Attributes:
        rollouts: completions, of which many are known without the model.
        children: how many next tokens the model proposes.
        constant: weight of exploration (c).
        base: how many visits let the weight grow (b).
        prior: `model`, or `uniform` for equal priors of the proposed tokens (plain UCB).
        judge_cut: whether texts that are cut at the limit of tokens are judged as well.
        enough: the search ends at this reward; None: it does all rollouts.
        cached: whether completions are reused. The tree is the same without.
    """

    rollouts: int = 32
    children: int = 3
    constant: float = 4.0
    base: float = 10.0
    prior: str = "model"
    judge_cut: bool = False
    enough: float | None = None
    cached: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.prior not in PRIORS:
            raise OptionError(f"prior is {shown(self.prior)}", hint=f"Give {' or '.join(PRIORS)}")

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return all texts that were completed, the one with the best reward first."""
        return self.planned(task).candidates()

    def planned(self, task: Task) -> Planned:
        """Search; return the tree with all texts.

        Raises:
            OptionError: there is no scorer or no tokenizer.
            ScorerError: the scorer failed.
            SearchStoppedError: a limit is reached.
        """
        completions = Completions(task=task, top=self.children, cached=self.cached)
        found = Planned(task=task, completions=completions)
        task.partial = found.candidates
        tree = PUcb(constant=self.constant, base=self.base)
        for _ in range(self.rollouts):
            reward = tree.rollout(
                found.root,
                lambda path: self._proposed(completions.best(path)),
                lambda path: self._reward(found, completions.whole(path)),
            )
            found.history.append(reward)
            if self.enough is not None and reward >= self.enough:
                break
        return found

    def _proposed(self, best: Best) -> list[tuple[int, float]]:
        """Return tokens with their priors: their probabilities as shares of the sum of these."""
        if self.prior == "uniform":
            return [(token, 1.0 / len(best)) for token, _ in best]
        weights = [exp(logprob - best[0][1]) for _, logprob in best]
        return [
            (token, weight / sum(weights)) for (token, _), weight in zip(best, weights, strict=True)
        ]

    def _reward(self, found: Planned, text: Text) -> float:
        known = found.rewards.get(text)
        if known is None or not self.cached:
            is_judged = text.finish == "stop" or self.judge_cut
            known = found.task.score([text.tokens])[0] if is_judged else 0.0
            found.rewards[text] = known
        return known


METHOD = Method(
    name="pg-td",
    cls=PgTd,
    summary="tree search over tokens; greedy completions are judged, for example by tests",
    paper=Paper("PG-TD: Planning with Large Language Models for Code Generation", "2303.05510"),
    promise=Exactness.LOSSY,
    needs="a scorer, such as the share of tests that a program passes",
    memory="the tokens of all completions; the prompt is stored once",
)
