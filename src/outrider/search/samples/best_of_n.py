"""Best of n: several samples, of which the one with the best score is returned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from outrider.core.checks import Range, check_ranges
from outrider.core.types import Exactness
from outrider.core.values import JsonValue
from outrider.protocols.method import Method
from outrider.search.candidate import Candidate
from outrider.search.segments import Passage
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
        task.partial = lambda: [
            one for one in _ranked(task, task.passages.so_far()) if one.token_ids
        ]
        passages = task.passages.write([task.root] * count, range(count), most=task.most)
        if task.scorer is None:
            return _ranked(task, passages)
        return _ranked(task, passages, task.score([passage.tokens for passage in passages]))


def _ranked(
    task: Task, passages: Sequence[Passage], scores: Sequence[float] | None = None
) -> list[Candidate]:
    """Return texts in the order of their scores; None: the mean log-probability of a token."""
    if scores is None:
        scores = [passage.mean_logprob for passage in passages]
    return [
        task.candidate(
            passages[i].tokens,
            scores[i],
            logprob=passages[i].logprob,
            finish="unfinished" if passages[i].finish == "cut" else None,
            sample=i,
        )
        for i in sorted(range(len(passages)), key=lambda i: -scores[i])
    ]


METHOD = Method(
    name="best-of-n",
    cls=BestOfN,
    summary="the best of several samples, by a scorer or by their own probability",
    promise=Exactness.LOSSY,
    memory="a cache for each sample",
)
