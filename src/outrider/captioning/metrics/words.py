"""Words of captions: what every score by words counts, and what no score can be given for."""

import re
from collections.abc import Sequence
from typing import Any

from outrider.core.errors import OptionError

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where words begin and end: letters and digits, hyphens and apostrophes inside them.

    A script without spaces comes as one word for each stretch of it.
    """
    return [match.span() for match in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return [text[start:stop].lower() for start, stop in word_spans(text)]


def grams(sequence: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """All runs of `length` neighbours, in order; none in a shorter sequence."""
    return [tuple(sequence[i : i + length]) for i in range(len(sequence) - length + 1)]


def check_captions(captions: Sequence[Any], **others: Any) -> None:
    """Refuse what can not be scored, before anything is computed.

    Args:
        captions: at least one, each with a word in it.
        **others: what there must be one of for each caption, by name; None is left out.

    Raises:
        OptionError: no captions, one that is no text or has no words, or unequal numbers.
    """
    if isinstance(captions, str):
        raise OptionError("captions are one text", hint="Give a list of texts")
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
