"""Rewards that are rules of the text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.checks import Range
from outrider.core.errors import OptionError

_WORD = re.compile(r"\w+")
_LENGTH = Range(1, whole=True, hint="Give a number of words")


@dataclass(frozen=True, slots=True)
class Keywords:
    """The share of the words that occur in a text, whole and in any case.

    Attributes:
        words: the words.

    Raises:
        OptionError: there is none.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.words or not all(word.strip() for word in self.words):
            raise OptionError("a scorer of keywords has no word", hint="Write keywords:sea,wind")

    @property
    def name(self) -> str:
        """Its name."""
        return f"keywords:{','.join(self.words)}"

    def score(self, prompt: str, texts: Sequence[str]) -> list[float]:
        """Return the share for each text, from 0 to 1."""
        patterns = [re.compile(rf"\b{re.escape(word.lower())}\b") for word in self.words]
        return [
            sum(bool(one.search(text.lower())) for one in patterns) / len(patterns)
            for text in texts
        ]


@dataclass(frozen=True, slots=True)
class Length:
    """Minus the distance to a number of words, as a share of that number: at most 0.

    Attributes:
        words: the number.

    Raises:
        OptionError: it is not positive.
    """

    words: int

    def __post_init__(self) -> None:
        _LENGTH.check("length", self.words)

    @property
    def name(self) -> str:
        """Its name."""
        return f"length:{self.words}"

    def score(self, prompt: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text."""
        return [-abs(len(_WORD.findall(text)) - self.words) / self.words for text in texts]
