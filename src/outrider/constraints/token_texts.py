"""The text and the exact bytes of single tokens, for log-probabilities, checkers and gates."""

from functools import lru_cache

from outrider.models.checkpoints.tokenizer import Tokenizer

_SPACE = "\u2581"
"""Stands for a space in vocabularies of SentencePiece."""


def _byte_letters() -> dict[str, int]:
    """Return the letter by which byte-level vocabularies write each byte: printable bytes stand for
    themselves, the others are shifted behind the first 256 code points."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + at): byte for at, byte in enumerate(others)}


_LETTERS = _byte_letters()


class TokenTexts:
    """Texts and bytes of the tokens of one vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.marks | set(tokenizer.special_texts)
        self._special = tokenizer.special_texts
        table = tokenizer.table
        spaces = sum(1 for entry in table if entry and entry.startswith(_SPACE))
        self._byte_level = sum(1 for entry in table if entry and entry.startswith("Ġ")) > spaces
        self.bytes_of = lru_cache(maxsize=65536)(self._bytes)

    def text(self, token: int) -> str:
        """Return the text of a token; bytes that are no whole character are replaced."""
        return self.bytes_of(token).decode("utf-8", "replace")

    def plain_bytes(self, token: int) -> bytes:
        """Return the bytes of a token in a text, where special tokens stand for nothing."""
        return b"" if token in self._special else self.bytes_of(token)

    def _bytes(self, token: int) -> bytes:
        table = self._tokenizer.table
        entry = table[token] if 0 <= token < len(table) else None
        if token in self._special:
            return self._special[token].encode()
        if entry is None:
            return b""
        if token in self._added:
            return self._tokenizer.decode_all([token]).encode()
        if self._byte_level:
            found = [_LETTERS.get(letter) for letter in entry]
            if None not in found:
                return bytes(byte for byte in found if byte is not None)
            return entry.encode()
        if len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">"):
            try:
                return bytes([int(entry[3:5], 16)])
            except ValueError:
                pass
        return entry.replace(_SPACE, " ").encode()
