"""Self-consistency: several samples, and the answer that most of them have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from outrider.core.checks import Range, check_ranges
from outrider.core.types import Exactness
from outrider.core.values import JsonValue
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.samples.answers import Extract, extract_of
from outrider.search.samples.voting import voted
from outrider.search.task import Search, Task

_RANGES = {"samples": Range(1, whole=True, hint="Give at least 1 sample")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Majority(Search):
    """Writes `samples` texts, and returns those with the most frequent answer first. The score is
    the share of the votes. Texts without an end do not vote; `first-finish` says what holds if no
    text ends.

    Attributes:
        samples: number of texts.
        answer: what they vote by: `number` (the last one), `line` (the last one), `boxed`, `text`,
            or a function of a text; None as its result is no vote.
    """

    samples: int = 8
    answer: str | Extract = "number"

    sampling: ClassVar[Mapping[str, JsonValue]] = {"temperature": 0.7}

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        extract_of(self.answer)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the texts that have ended, those with the most frequent answer first."""
        return voted(task, self.samples, extract_of(self.answer))


METHOD = Method(
    name="majority",
    cls=Majority,
    summary="the most frequent answer of several samples",
    paper=Paper("self-consistency", "2203.11171"),
    promise=Exactness.LOSSY,
    memory="a cache for each sample",
)
