"""The bytes of tokens, and tokens for bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from outrider.constraints.token_texts import TokenTexts
from outrider.models.checkpoints.tokenizer import Tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """What the tokens of a model stand for.

    Attributes:
        bytes_of: the bytes of a token; None or no bytes: it stands for no text, and no grammar
            allows it.
        size: the number of tokens.
        ends: the tokens that end a text.
    """

    bytes_of: Callable[[int], bytes | None]
    size: int
    ends: frozenset[int] = field(default_factory=frozenset)

    @classmethod
    def of(cls, tokenizer: Tokenizer, ends: Sequence[int], size: int) -> "Vocabulary":
        """Return the vocabulary of a model.

        Args:
            tokenizer: of the model.
            ends: the tokens that end a text.
            size: of the model's vocabulary.
        """
        return cls(TokenTexts(tokenizer).plain_bytes, size, frozenset(ends))

    @cached_property
    def tokens(self) -> dict[bytes, int]:
        """The first token of each text."""
        found = dict[bytes, int]()
        for token in range(self.size):
            if token not in self.ends and (text := self.bytes_of(token)):
                found.setdefault(text, token)
        return found

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.tokens), default=0)

    def spelled(self, text: bytes) -> list[int] | None:
        """Return the fewest tokens that spell some bytes, of these the one with the longest first
        token; None if none do."""
        best: list[int | None] = [None] * len(text) + [0]
        step = [0] * len(text)
        for place in reversed(range(len(text))):
            for end in range(min(place + self.longest, len(text)), place, -1):
                rest = best[end]
                if rest is None or text[place:end] not in self.tokens:
                    continue
                now = best[place]
                if now is None or rest + 1 < now:
                    best[place], step[place] = rest + 1, end
        if best[0] is None:
            return None
        found, place = list[int](), 0
        while place < len(text):
            found.append(self.tokens[text[place : step[place]]])
            place = step[place]
        return found
