"""Where a step of a text ends: at a delimiter, found in the text and not in the tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class StepEnd:
    r"""Finds the end of the first step of a passage (`segments.Until`).

    A step ends with the token that completes the delimiter. Spaces and line breaks before the step
    do not count, so that no step is empty where a text has more of them than the delimiter needs.

    Attributes:
        decode: from tokens to text.
        delimiter: the text that ends a step, such as a blank line.
    """

    decode: Decode
    delimiter: str

    def __call__(self, tokens: Sequence[int]) -> int | None:
        """Return how many tokens the step has; None if it does not end in them."""
        if not self._ends(tokens):
            return None
        low, high = 1, len(tokens)
        while low < high:
            middle = (low + high) // 2
            if self._ends(tokens[:middle]):
                high = middle
            else:
                low = middle + 1
        return low

    def _ends(self, tokens: Sequence[int]) -> bool:
        text = self.decode(tokens)
        return text.find(self.delimiter, len(text) - len(text.lstrip())) >= 0


def unescaped(text: str) -> str:
    r"""Return a delimiter as it was meant: `\n` and `\t` stand for a line break and a tab, because
    text forms of options cannot hold them."""
    return text.replace("\\n", "\n").replace("\\t", "\t")
