"""A tokenizer of numbers."""

from collections.abc import Sequence

from outrider.testing.searches import LetterCodec


class Numbers(LetterCodec):
    """Encodes numbers as themselves."""

    def __init__(self, fingerprint: str = "numbers") -> None:
        self.fingerprint = fingerprint

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(int(word) for word in text.split())

    encode_plain = encode

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))
