"""The beginnings of sentences as a tree of tokens."""

from collections.abc import Iterable, Sequence
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

    def after(self, tokens: Iterable[int]) -> "Start":
        """Return the beginning with these tokens. Raises `KeyError` if no sentence has it."""
        found = self
        for token in tokens:
            found = found.next[token]
        return found

    @property
    def open(self) -> bool:
        """Whether more tokens can tell its sentences apart."""
        return len(self.sentences) > 1 and bool(self.next)


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
