"""Text as tokens without special ones in front, for text that continues other text."""

from typing import Protocol, runtime_checkable

from outrider.inputs.given import TextCodec


@runtime_checkable
class PlainCodec(Protocol):
    """A tokenizer that can leave out the special tokens at the beginning."""

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Encode text without special tokens in front of it."""
        ...


def plain_tokens(codec: TextCodec, text: str) -> tuple[int, ...]:
    """Return the tokens of a text that continues another one."""
    if not text:
        return ()
    if isinstance(codec, PlainCodec):
        return tuple(codec.encode_plain(text))
    return tuple(codec.encode(text)[len(codec.encode("")) :])
