"""A tokenizer of numbers."""

from collections.abc import Sequence

from outrider.core.types import Message


class Numbers:
    """Encodes numbers as themselves."""

    has_chat = False

    def __init__(self, fingerprint: str = "numbers") -> None:
        self.fingerprint = fingerprint

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(int(word) for word in text.split())

    encode_plain = encode

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        raise NotImplementedError
