"""The beginnings of sentences as a tree of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Start:
    """A beginning that some sentences share.

    Attributes:
        sentences: numbers of the sentences, ascending.
        next: the beginnings with one more token.
    """

    sentences: list[int] = field(default_factory=list[int])
    next: "dict[int, Start]" = field(default_factory=dict[int, "Start"])

    @property
    def open(self) -> bool:
        """Whether one more token tells its sentences apart: there are several, and none ends."""
        longer = sum(len(one.sentences) for one in self.next.values())
        return len(self.sentences) == longer > 1


def starts_of(texts: Sequence[Sequence[int]]) -> Start:
    """Return the tree of texts, each of which is a sentence as tokens."""
    root = Start()
    for number, tokens in enumerate(texts):
        place = root
        place.sentences.append(number)
        for token in tokens:
            place = place.next.setdefault(token, Start())
            place.sentences.append(number)
    return root
