"""Which runs of tokens a text holds, in sets by their length."""

from collections.abc import Sequence


class Repeats:
    """The runs of up to `most` tokens of one text, which may grow, shrink and change at its end.

    Attributes:
        most: the longest runs that are stored.
    """

    def __init__(self, most: int) -> None:
        """Begin with an empty text."""
        self.most = most
        self._text: list[int] = []
        self._runs: list[set[tuple[int, ...]]] = [set() for _ in range(most)]
        self._added: list[int] = []
        """For each place, how many of the runs that end there were new: the longest ones."""

    def follow(self, text: Sequence[int]) -> None:
        """Make `text` the text. What it shares with the one before is not read again."""
        text = list(text)
        common = len(self._text)
        if text[:common] != self._text:
            pairs = enumerate(zip(text, self._text, strict=False))
            common = next((i for i, (a, b) in pairs if a != b), len(text))
        while len(self._text) > common:
            self._remove()
        for token in text[common:]:
            self._append(token)

    def longest(self, token: int) -> int:
        """Return the largest length of a run that ends with `token` after the text and that the
        text holds already; 0 if it does not hold the token."""
        length = 0
        while length < min(self.most, len(self._text)):
            if (*self._end(length), token) not in self._runs[length]:
                break
            length += 1
        return length

    @property
    def tokens(self) -> list[int]:
        """The tokens of the text, each once."""
        return sorted({token for (token,) in self._runs[0]})

    def _end(self, length: int) -> list[int]:
        return self._text[len(self._text) - length :]

    def _append(self, token: int) -> None:
        known = self.longest(token)
        self._text.append(token)
        longest = min(self.most, len(self._text))
        for length in range(known + 1, longest + 1):
            self._runs[length - 1].add(tuple(self._end(length)))
        self._added.append(longest - known)

    def _remove(self) -> None:
        longest = min(self.most, len(self._text))
        for length in range(longest - self._added.pop() + 1, longest + 1):
            self._runs[length - 1].discard(tuple(self._end(length)))
        self._text.pop()
