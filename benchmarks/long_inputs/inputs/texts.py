"""Data sets as they lie on disk, and long inputs made of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outrider.core.types import LongContext, Passage, Prompt
from outrider.inputs.documents.chunks import cut
from outrider.inputs.lines import numbered_lines
from outrider.inputs.prompts.long_prompts import long_prompt
from outrider.models.checkpoints.tokenizer import Tokenizer


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a `.jsonl.zst` file."""
    yield from (json.loads(line) for _, line in numbered_lines(file))


class Library:
    """Makes long inputs; each text is tokenised once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._read: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def passage(self, text: str) -> Passage:
        """A short text with its ids."""
        return Passage(text, self.tokenizer.encode_plain(text))

    def ids(self, text: str) -> tuple[int, ...]:
        """Ids of a long text."""
        return self._tokens(text)[0]

    def chunks(self, text: str, size: int) -> tuple[Passage, ...]:
        """The chunks of a text."""
        return cut(text, *self._tokens(text), size)

    def context(self, chunks: tuple[Passage, ...], asked: str) -> LongContext:
        """Chunks, and what is asked of them, without a prompt around."""
        decode = self.tokenizer.decode
        return LongContext(start=0, chunks=chunks, query=self.passage(asked), decode=decode)

    def prompt(self, text: str, asked: str, chunk_size: int) -> Prompt:
        """A chat message that gives the text and then asks, ready for the answer."""
        return long_prompt(self.tokenizer, [("", text)], asked, chunk_size=chunk_size, chat=True)

    def bare(self, asked: str) -> Prompt:
        """The same without a text."""
        message = [{"role": "user", "content": asked}]
        return Prompt(token_ids=self.tokenizer.chat(message))

    def _tokens(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if text not in self._read:
            self._read[text] = self.tokenizer.encode_spans(text)
        return self._read[text]
