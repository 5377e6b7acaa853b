"""Beam search: the few branches with the largest sum of log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.checks import check_ranges
from outrider.core.types import Exactness
from outrider.protocols.method import Method
from outrider.search.beams.core import RANGES, Beams, check_returned, check_stopping, run_groups
from outrider.search.candidate import Candidate
from outrider.search.task import Search, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearch(Search):
    """Keeps the `num_beams` best branches. The score of a text is its log-probability, after
    penalties, divided by its length to the power of `length_penalty`. Texts and scores are those of
    `transformers`, and so are the options.

    Attributes:
        num_beams: branches.
        length_penalty: 0 compares sums of log-probabilities, 1 their mean; larger values prefer
            longer texts.
        early_stopping: true: stop as soon as `num_beams` texts have ended. False: stop when the
            best running branch, at its present length, is no better than the worst ended text.
            `never`: the same with the greatest length, if `length_penalty` is positive.
        num_return_sequences: texts that are returned; None: `num_beams`.
    """

    num_beams: int = 5
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        check_stopping(self.early_stopping)
        check_returned(self.num_return_sequences, self.num_beams)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the finished texts, the best first."""
        beams = Beams(
            task=task,
            width=self.num_beams,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            most=task.most,
        )

        def found() -> list[Candidate]:
            return [beams.candidate(one) for one in beams.found()[: self.num_return_sequences]]

        task.partial = found
        run_groups([beams], task)
        return found()


METHOD = Method(
    name="beam",
    cls=BeamSearch,
    summary="the few branches with the largest log-probability, all in one forward",
    promise=Exactness.LOSSY,
    memory="a row for each token of a branch; the prompt is stored once",
)
