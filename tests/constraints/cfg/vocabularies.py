"""Vocabularies of tests, and answers with masks."""

from outrider.constraints.cfg.vocabulary import Vocabulary

END, SPECIAL = 256, 257
WORDS = (
    b'"name',
    b'":',
    b'": ',
    b"true",
    b"fal",
    b"se",
    b"\xc3\xa9",
    b"12",
    b'{"',
    b"},",
    b'\\"',
    b"ab",
)
MASK = 258 + len(WORDS)
BYTES = Vocabulary(
    lambda token: bytes((token,)) if token < 256 else None if token < 258 else WORDS[token - 258],
    258 + len(WORDS),
    frozenset((END,)),
)
"""Every byte, an end token, a token without a text, and some words."""


def masked(*parts: bytes | int) -> list[int]:
    """Tokens of single bytes for bytes, and as many masks as a number says."""
    return [token for part in parts for token in ([MASK] * part if isinstance(part, int) else part)]


def text_of(tokens: list[int]) -> bytes:
    """The text before the first end token."""
    found = b""
    for token in tokens:
        if token == END:
            break
        found += BYTES.bytes_of(token) or b""
    return found
