"""What judges texts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from outrider.core.errors import OutriderError, in_short


class ScorerError(OutriderError):
    """A scorer failed or returned something that is no score."""


@runtime_checkable
class Scorer(Protocol):
    """Judges texts: a reward model, a process reward model, a rule."""

    @property
    def name(self) -> str:
        """Its name in results and errors."""
        ...

    def score(self, prompt: str, texts: Sequence[str]) -> Sequence[float]:
        """Return a score for each text, which may be unfinished; larger is better.

        Args:
            prompt: the prompt.
            texts: what was written after it, without special tokens.
        """
        ...


@dataclass(frozen=True, slots=True)
class FunctionScorer:
    """A function of a text, or of a prompt and a text.

    Attributes:
        function: returns the score of one text.
        with_prompt: whether it takes the prompt first.
        title: its name in results and errors; empty: that of the function.
    """

    function: Callable[..., float]
    with_prompt: bool = False
    title: str = ""

    @property
    def name(self) -> str:
        """Its name."""
        return self.title or getattr(self.function, "__name__", "a function")

    def score(self, prompt: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text."""
        if self.with_prompt:
            return [self.function(prompt, text) for text in texts]
        return [self.function(text) for text in texts]


def checked_scores(scorer: Scorer, prompt: str, texts: Sequence[str]) -> list[float]:
    """Return the scores of texts.

    Raises:
        ScorerError: the scorer raised an error, or returned another number of scores, or one that
            is no number.
    """
    try:
        found = [float(score) for score in scorer.score(prompt, texts)]
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        raise ScorerError(
            f"the scorer {scorer.name} failed: {in_short(error)}",
            hint="Correct it; what was found before is kept",
        ) from error
    if len(found) != len(texts):
        raise ScorerError(
            f"the scorer {scorer.name} returned {len(found)} scores for {len(texts)} texts",
            hint="Return one number for each text",
        )
    wrong = next((score for score in found if math.isnan(score)), None)
    if wrong is not None:
        raise ScorerError(
            f"the scorer {scorer.name} returned {wrong}",
            hint="Return a finite number for each text",
        )
    return found
