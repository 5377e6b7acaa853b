"""The bytes of the tokens of a vocabulary, and which tokens begin with given bytes."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from outrider.constraints.token_texts import TokenTexts
from outrider.core.types import IntArray, as_ids
from outrider.models.checkpoints.tokenizer import Tokenizer

Encode = Callable[[str], Sequence[int]]
"""Maps a text to its tokens, without opening tokens."""


class ByteVocabulary:
    """Tokens as bytes. Tokens without bytes, such as special ones, are part of no text.

    Args:
        tokens: the bytes of each id; empty for ids that stand for no text.
        encode: the tokenizer; None: the longest token that fits is taken, from left to right.
    """

    def __init__(self, tokens: Sequence[bytes], encode: Encode | None = None) -> None:
        self._tokens = tuple(tokens)
        self.tokenizer = encode
        pairs = sorted((own, token) for token, own in enumerate(self._tokens) if own)
        self._sorted = [own for own, _ in pairs]
        self._ids = as_ids([token for _, token in pairs])
        self.longest = max(map(len, self._sorted), default=0)
        """Most bytes of a token."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, size: int) -> "ByteVocabulary":
        """Return the vocabulary of a tokenizer, without the ids from `size` on, which the model
        does not write."""
        texts = TokenTexts(tokenizer)
        count = min(size, tokenizer.vocab_size)
        tokens = [texts.plain_bytes(token) for token in range(count)]
        return cls(tokens, tokenizer.encode_plain)

    def __len__(self) -> int:
        """One more than the highest id."""
        return len(self._tokens)

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token; empty for an id outside the vocabulary."""
        return self._tokens[token] if 0 <= token < len(self._tokens) else b""

    def text(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of tokens."""
        return b"".join(map(self.bytes_of, tokens))

    def longer(self, start: bytes) -> IntArray:
        """Return the ids of all tokens that begin with `start` and have more bytes."""
        if len(start) >= self.longest:
            return self._ids[:0]
        first = bisect_right(self._sorted, start)
        end = _after(start)
        last = len(self._sorted) if end is None else bisect_left(self._sorted, end, lo=first)
        return self._ids[first:last]

    def token_of(self, text: bytes) -> int | None:
        """Return the lowest id with exactly these bytes; None if there is none."""
        at = bisect_left(self._sorted, text)
        found = at < len(self._sorted) and self._sorted[at] == text
        return int(self._ids[at]) if found else None

    def encode(self, text: bytes) -> tuple[tuple[int, ...], bytes]:
        """Return the tokens of bytes, and the bytes at the end that have none.

        Whole characters are read by the tokenizer. All other bytes, such as the beginning of a
        character, become one token each. Where the tokenizer changes a text, as one that puts a
        space in front of it does, the longest tokens that fit are taken in its place.
        """
        tokens: list[int] = []
        while text:
            whole, broken, after = _split(text)
            read, rest = self._read(whole)
            tokens += read
            if rest:
                return tuple(tokens), rest + broken + after
            for at in range(len(broken)):
                token = self.token_of(broken[at : at + 1])
                if token is None:
                    return tuple(tokens), broken[at:] + after
                tokens.append(token)
            text = after
        return tuple(tokens), b""

    def _read(self, whole: bytes) -> tuple[Sequence[int], bytes]:
        """Return the tokens of whole characters, and the bytes at the end that have none."""
        if self.tokenizer is not None:
            found = [int(token) for token in self.tokenizer(whole.decode())]
            if self.text(found) == whole:
                return found, b""
        tokens = self._longest(whole)
        return tokens, whole[len(self.text(tokens)) :]

    def _longest(self, text: bytes) -> Sequence[int]:
        """Take the longest token that fits, from left to right, until none fits."""
        tokens: list[int] = []
        at = 0
        while at < len(text):
            ends = range(min(len(text), at + self.longest), at, -1)
            fitting = (self.token_of(text[at:end]) for end in ends)
            token = next((token for token in fitting if token is not None), None)
            if token is None:
                break
            tokens.append(token)
            at += len(self.bytes_of(token))
        return tokens


def _after(start: bytes) -> bytes | None:
    """Return the first bytes after all that begin with `start`; None if there are none."""
    short = start.rstrip(b"\xff")
    return short[:-1] + bytes([short[-1] + 1]) if short else None


def _split(text: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the whole characters at the beginning, the bytes after them that are part of none, and
    what follows."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return text[: error.start], text[error.start : error.end], text[error.end :]
    return text, b"", b""
