"""Splits captions into words for word-based scores, and refuses captions that cannot be scored."""

import re
from collections.abc import Sequence
from typing import Any

from outrider.core.errors import OptionError

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of words: letters and digits, with hyphens and apostrophes inside them.

    In a script without spaces, each run of characters is one word.
    """
    return [match.span() for match in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """Return the words in lower case, without punctuation."""
    return [text[start:stop].lower() for start, stop in word_spans(text)]


def grams(sequence: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Return all runs of `length` adjacent items, in order; none for a shorter sequence."""
    return [tuple(sequence[i : i + length]) for i in range(len(sequence) - length + 1)]


def check_captions(captions: Sequence[Any], **others: Any) -> None:
    """Refuse captions that cannot be scored, before anything is computed.

    Args:
        captions: at least one caption, each with at least one word.
        **others: other data by name, one item for each caption; None is skipped.

    Raises:
        OptionError: there are no captions, one is not a text or has no words, or numbers differ.
    """
    if isinstance(captions, str):
        raise OptionError("captions is a text, not a list", hint="Give a list of texts")
    if not len(captions):
        raise OptionError("there are no captions to score", hint="Give at least one")
    for place, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise OptionError(f"caption {place} is a {type(caption).__name__}, not a text")
        if not _WORD.search(caption):
            raise OptionError(
                f"caption {place} has no words: {caption!r}",
                hint="Leave out images that have no caption",
            )
    for name, given in others.items():
        if given is not None and len(given) != len(captions):
            raise OptionError(
                f"{len(captions)} captions, but {len(given)} {name}",
                hint=f"Give {name} for each caption, in the same order",
            )
