"""Where sentences begin in a text that grows token by token."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from outrider.inputs.given import TextCodec

_END = re.compile(r"""(?<![\d.?!])[.?!]+["'\u2019\u201d)\]]*$""")
_LATE = re.compile(r"""\d[.?!]+["'\u2019\u201d)\]]*\s""")
_FENCE = "```"
_TAIL = 8
"""Letters of the text that are kept to recognise an end that lies in two tokens."""


@dataclass(frozen=True, slots=True)
class SentencePlace:
    """The place of the next token.

    Attributes:
        sentence: number of its sentence, from 0.
        written: tokens of this sentence that are written.
        has_words: whether it has a letter or a digit: marks alone are no sentence.
        tail: the last letters of the text.
        in_code: whether it is inside a block of code.
        in_math: whether it is between dollar signs.
    """

    sentence: int = 0
    written: int = 0
    has_words: bool = False
    tail: str = ""
    in_code: bool = False
    in_math: bool = False

    def after(self, piece: str, longest: int) -> "SentencePlace":
        """Return the place after a token with this text.

        A sentence ends with a line, or with one of `.?!` and closing quotes or brackets. After a
        digit it ends only if white space follows, and the token that shows this belongs to it. In
        code and formulas it does not end, and nowhere is it longer than `longest` tokens.
        """
        text = self.tail + piece
        in_code = self.in_code ^ bool(self._fences(text) % 2)
        in_math = self.in_math ^ bool(piece.count("$") % 2) and "\n" not in piece
        has_words = self.has_words or re.search(r"\w", piece) is not None
        ends = has_words and not in_code and not in_math and self._ends(text, piece)
        tail = text[-_TAIL:]
        if ends or self.written + 1 >= longest:
            return SentencePlace(self.sentence + 1, 0, False, tail, in_code, in_math)
        return SentencePlace(self.sentence, self.written + 1, has_words, tail, in_code, in_math)

    def _fences(self, text: str) -> int:
        """Count the marks of code that this token completes."""
        return text.count(_FENCE) - self.tail.count(_FENCE)

    def _ends(self, text: str, piece: str) -> bool:
        if "\n" in piece or _END.search(text):
            return True
        late = None if self.in_code or self.in_math else _LATE.search(text)
        return late is not None and late.end() > len(self.tail)


@dataclass(slots=True)
class SentencePlaces:
    """Finds the place after each of several texts, which share beginnings.

    Attributes:
        piece: the text of a token.
        longest: tokens of a sentence, at most.
    """

    piece: Callable[[int], str]
    longest: int
    _known: dict[tuple[int, ...], SentencePlace] = field(
        default_factory=dict[tuple[int, ...], SentencePlace]
    )

    def after(self, tokens: tuple[int, ...]) -> SentencePlace:
        """Return the place after these generated tokens."""
        if len(self._known) > _KEPT:
            self._known.clear()
        size = len(tokens)
        while size and tokens[:size] not in self._known:
            size -= 1
        place = self._known[tokens[:size]] if size else SentencePlace()
        for end in range(size + 1, len(tokens) + 1):
            place = place.after(self.piece(tokens[end - 1]), self.longest)
            self._known[tokens[:end]] = place
        return place


_KEPT = 4096
"""Texts whose place is kept."""


def pieces(codec: TextCodec) -> Callable[[int], str]:
    """Return a function that gives the text of a token inside a text."""
    first: Sequence[int] = codec.encode("a")[-1:]
    before = len(codec.decode(first))
    known: dict[int, str] = {}

    def piece(token: int) -> str:
        if token not in known:
            known[token] = codec.decode((*first, token))[before:]
        return known[token]

    return piece
