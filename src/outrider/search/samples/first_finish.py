"""First Finish Search: several samples, of which the one that ends first is the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.core.values import JsonValue
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.samples.answers import Extract, extract_of
from outrider.search.samples.voting import voted
from outrider.search.task import Search, Task

_RANGES = {
    "samples": Range(1, whole=True, hint="Give at least 1 sample"),
    "finish": Range(1, whole=True, hint="Let at least 1 sample end"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstFinish(Search):
    """Begins `samples` texts, and stops when `finish` of them have ended: these vote by their
    answers. With 1 the shortest sample is the result, with all of them it is `majority`.

    First is the shortest text, however many tokens a round of drafts adds; of equally short ones
    the text with the larger mean log-probability of a token. The score is the share of the votes.
    If none ends within the limit, the texts are ordered by that mean, and are marked as unfinished.

    Attributes:
        samples: texts that are begun.
        finish: texts that end.
        answer: what they vote by: `number` (the last one), `line` (the last one), `boxed`, `text`,
            or a function of a text; None as its result is no vote.
    """

    samples: int = 4
    finish: int = 1
    answer: str | Extract = "number"

    sampling: ClassVar[Mapping[str, JsonValue]] = {"temperature": 0.6, "top_p": 0.95}

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        extract_of(self.answer)
        if self.finish > self.samples:
            raise OptionError(
                f"finish is {self.finish}, but there are {self.samples} samples",
                hint="Give at most the number of samples",
            )

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the texts that ended first, those with the most frequent answer first."""
        # A single text needs no vote, and no text that has an answer.
        extract = extract_of(self.answer) if self.finish > 1 else None
        return voted(task, self.samples, extract, first=self.finish)


METHOD = Method(
    name="first-finish",
    cls=FirstFinish,
    summary="several samples, of which the first that ends is returned, or a vote of the first few",
    paper=Paper("First Finish Search", "2505.18149"),
    promise=Exactness.LOSSY,
    memory="a cache for each sample",
)
