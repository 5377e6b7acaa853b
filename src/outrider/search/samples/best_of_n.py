"""Best of n: several samples, of which the one with the best score is returned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from outrider.core.checks import Range, check_ranges
from outrider.core.types import Exactness
from outrider.core.values import JsonValue
from outrider.protocols.method import Method
from outrider.search.candidate import Candidate
from outrider.search.task import Search, Task

_RANGES = {"samples": Range(1, whole=True, hint="Give at least 1 sample")}


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN(Search):
    """Writes `samples` texts and returns them in the order of their scores: those of the scorer, or
    the mean log-probability of a token without one.

    Attributes:
        samples: number of texts.
    """

    samples: int = 4

    sampling: ClassVar[Mapping[str, JsonValue]] = {"temperature": 0.8}

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return all texts, the best first."""
        count = self.samples
        passages = task.passages.write([task.root] * count, range(count), most=task.most)
        texts = [passage.tokens for passage in passages]
        means = [passage.mean_logprob for passage in passages]

        def ranked(scores: Sequence[float]) -> list[Candidate]:
            order = sorted(range(count), key=lambda i: -scores[i])
            return [
                task.candidate(texts[i], scores[i], logprob=passages[i].logprob, sample=i)
                for i in order
            ]

        task.partial = lambda: ranked(means)
        return ranked(means if task.scorer is None else task.score(texts))


METHOD = Method(
    name="best-of-n",
    cls=BestOfN,
    summary="the best of several samples, by a scorer or by their own probability",
    promise=Exactness.LOSSY,
    memory="a cache for each sample",
)
