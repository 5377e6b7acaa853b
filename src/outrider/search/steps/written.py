"""One text that grows token by token, as the result of a search."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from outrider.core.values import JsonValue
from outrider.search.candidate import Candidate
from outrider.search.task import Task


@dataclass(slots=True)
class Written:
    """The text so far.

    Attributes:
        task: the prompt.
        tokens: its tokens.
        logprob: sum of their log-probabilities under the model.
    """

    task: Task
    tokens: list[int] = field(default_factory=list[int])
    logprob: float = 0.0

    def add(self, tokens: Sequence[int], logprob: float) -> None:
        """Append tokens, with the sum of their log-probabilities under the model."""
        self.tokens += tokens
        self.logprob += logprob

    @property
    def ended(self) -> bool:
        """Whether its last token ends a text."""
        return self.tokens[-1:] != [] and self.tokens[-1] in self.task.end_ids

    def finished(self, **about: JsonValue) -> list[Candidate]:
        """Return the text as the only result; its score is the mean log-probability of a token."""
        return [self._candidate(None, about)]

    def unfinished(self, **about: JsonValue) -> list[Candidate]:
        """Return the text as far as it is written; nothing if it is empty."""
        return [self._candidate("unfinished", about)] if self.tokens else []

    def _candidate(self, finish: str | None, about: dict[str, JsonValue]) -> Candidate:
        mean = self.logprob / max(len(self.tokens), 1)
        finish = None if self.ended else finish
        return self.task.candidate(self.tokens, mean, logprob=self.logprob, finish=finish, **about)
