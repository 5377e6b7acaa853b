"""A recogniser without training: what a text may be of which some letters were read wrongly.

A letter is read as another one of its group with the chance `LETTERS`, and a space as any small
letter with the chance `SPACES`. The recogniser knows this channel, and of the language only which
character follows three others. It is the exact posterior of both: the next character is weighted by
all ways to complete the text. Its tokens are single bytes.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.types import Message
from outrider.inputs.lines import numbered_lines
from outrider.models.tabular import TabularModel

LETTERS, SPACES = 0.3, 0.1
GROUPS = ("aeiou", "bdpq", "mnrw", "cksz", "fltj", "ghvxy")
SMALL = "abcdefghijklmnopqrstuvwxyz"
ALPHABET = f" ,.'-{SMALL}{SMALL.upper()}"
SIZE, ORDER = len(ALPHABET), 4
END, SEPARATOR, FIRST = 0, 1, 2
"""Ids: the end of a text, the end of what was read, and byte 0."""

Table = NDArray[np.float64]


def sentences(file: Path, field_name: str, most: int) -> Iterator[str]:
    """Yield the beginnings of sentences: whole words of at most `most` characters."""
    for _, line in numbered_lines(file):
        text = " ".join(str(json.loads(line)[field_name]).split())
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            kept = "".join(letter for letter in sentence if letter in ALPHABET)
            found = re.match(rf".{{20,{most}}}(?= |$)", kept)
            if found and found[0][0].isupper() and "  " not in found[0]:
                yield found[0].strip()


def channel() -> Table:
    """Return `[what is there, what is read]`: the chance of each reading."""
    table = np.eye(SIZE)
    for group in GROUPS:
        for form in (group, group.upper()):
            places = [ALPHABET.index(letter) for letter in form]
            for place in places:
                others = [other for other in places if other != place]
                table[place, place] = 1 - LETTERS
                table[place, others] = LETTERS / len(others)
    small = [ALPHABET.index(letter) for letter in SMALL]
    table[0, 0], table[0, small] = 1 - SPACES, SPACES / len(small)
    return table


CHANNEL = channel()


def read_wrongly(text: str, random: np.random.Generator) -> str:
    """Return what is read of a text."""
    rows = (CHANNEL[ALPHABET.index(letter)] for letter in text)
    return "".join(ALPHABET[random.choice(SIZE, p=row)] for row in rows)


def language(texts: Iterator[str], characters: int, weight: float = 4.0) -> NDArray[np.float32]:
    """Return `[a, b, c, d]`, the probability of d after a, b and c: counts, of which each order is
    smoothed by the next lower one. Texts begin after three spaces."""
    parts: list[int] = []
    for text in texts:
        parts += [0, 0, 0, *map(ALPHABET.index, text)]
        if len(parts) >= characters:
            break
    codes = np.asarray(parts, dtype=np.int64)
    found = np.full(SIZE, 1.0 / SIZE)
    for order in range(1, ORDER + 1):
        places = sum(
            codes[i : len(codes) - order + 1 + i] * SIZE ** (order - 1 - i) for i in range(order)
        )
        counts = np.bincount(places, minlength=SIZE**order).reshape([SIZE] * order)
        lower = np.broadcast_to(found, counts.shape)
        found = (counts + weight * lower) / (counts.sum(-1, keepdims=True) + weight)
    return found.astype(np.float32)


@dataclass(slots=True)
class _Lattice:
    """What a reading may be.

    Attributes:
        chances: at each place, the characters that it may be, and how probable the reading is then.
        after: `[a, b, c]` at each place: the probability of all later readings, where a, b and c
            are numbers of characters that the last three may be.
    """

    chances: list[tuple[NDArray[np.int64], Table]]
    after: list[Table]


class ChannelModel(TabularModel):
    """The recogniser; see the module. A prompt is what was read, as bytes, and a separator.

    Args:
        table: probabilities of characters, from `language`.
    """

    def __init__(self, table: NDArray[np.float32]) -> None:
        super().__init__(torch.zeros(256 + FIRST, 256 + FIRST, dtype=torch.float64), name="channel")
        self.order = 1 << 20  # the whole text
        self._language = table
        self._lattices: dict[tuple[int, ...], _Lattice] = {}

    def logits_after(self, text: Sequence[int]) -> Float[Tensor, " vocab"]:
        """Return the log-probabilities of the byte after a prompt and the text so far."""
        split = list(text).index(SEPARATOR)
        read = tuple(_code(token) for token in text[:split])
        written = [_code(token) for token in text[split + 1 :]]
        row = torch.full((self.info.vocab_size,), -torch.inf, dtype=torch.float64)
        if len(written) >= len(read):
            row[END] = 0.0
            return row
        lattice = self._lattice(read)
        place = len(written)
        characters, chances = lattice.chances[place]
        before = [0, 0, 0, *written][-3:]
        own = self._language[*before, characters].astype(np.float64) * chances
        own *= lattice.after[place][self._numbers(lattice, place, before)]
        ids = [FIRST + ord(ALPHABET[code]) for code in characters]
        row[ids] = torch.from_numpy(np.log(own / own.sum()))
        return row

    def _numbers(self, lattice: _Lattice, place: int, before: Sequence[int]) -> tuple:
        """Return the numbers of the last two characters among those at their places."""
        found = []
        for back in (2, 1):
            if place - back < 0:
                found.append(0)
                continue
            [at] = np.flatnonzero(lattice.chances[place - back][0] == before[-back])
            found.append(int(at))
        return tuple(found)

    def _lattice(self, read: tuple[int, ...]) -> _Lattice:
        if read not in self._lattices:
            self._lattices = {read: self._computed(read)}  # one text at a time is enough
        return self._lattices[read]

    def _computed(self, read: tuple[int, ...]) -> _Lattice:
        chances = []
        for code in read:
            characters = np.flatnonzero(CHANNEL[:, code])
            chances.append((characters, CHANNEL[characters, code]))
        start = np.zeros(1, dtype=np.int64)
        may_be = [start, start, *[one for one, _ in chances]]
        after = [np.ones([len(one) for one in may_be[-3:]])]
        for place in range(len(read) - 1, 0, -1):
            a, b, c, d = may_be[place - 1], may_be[place], may_be[place + 1], may_be[place + 2]
            own = self._language[np.ix_(a, b, c, d)] * chances[place][1]
            found = np.einsum("abcd,bcd->abc", own, after[0])
            after.insert(0, found / found.max())
        return _Lattice(chances, after)


def _code(token: int) -> int:
    return ALPHABET.index(chr(token - FIRST))


@dataclass(frozen=True, slots=True)
class ByteCodec:
    """The tokenizer of the recogniser: a token for each byte."""

    has_chat: bool = field(default=False)

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode what was read as a prompt."""
        return (*(FIRST + byte for byte in text.encode()), SEPARATOR)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode bytes."""
        return bytes(i - FIRST for i in ids if i >= FIRST).decode("utf-8", "replace")

    def chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """There is no template. Raises `ValueError`."""
        raise ValueError("a recogniser has no chat template")
