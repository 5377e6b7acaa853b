"""Recorded texts as batches for training."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.models.heads.hints import Hints, count_successors
from outrider.training.heads.unroll import Texts

_BLOCK = 48
"""Texts that are sorted by length, so that batches hold texts of similar lengths."""
_HALVES = 2
_SHORTEST = 4
"""Answers with fewer tokens are left out."""


@dataclass(frozen=True, slots=True)
class TextPlace:
    """Where a text lies in its file.

    Attributes:
        file: the file.
        row: its first row of ids.
        state: its first row of states, of which each text has one less than ids.
        prompt: number of tokens of its prompt.
        total: number of all its tokens.
        kind: the file of prompts that it comes from.
        half: texts of one half get hints from the answers of the other one.
    """

    file: Path
    row: int
    state: int
    prompt: int
    total: int
    kind: str
    half: int

    @property
    def starts(self) -> int:
        """Number of chains that start in its answer: one at the last token of the prompt."""
        return self.total - self.prompt - 1


class RecordedTexts:
    """All texts of a folder.

    Args:
        folder: holds files of `save_texts`.
        vocab: number of tokens of the target.
        steps: number of steps for which hints are looked up.
        hints: without them, all hints have level 0.

    Attributes:
        places: all texts, in the order of their files.
        table: `[vocab]` successors in all answers, for texts that are not among them.

    Raises:
        OptionError: there are none.
    """

    def __init__(self, folder: Path, vocab: int, steps: int, *, hints: bool = True) -> None:
        self.steps, self._hinted = steps, hints
        self.places: list[TextPlace] = []
        self._ids: dict[Path, IntArray] = {}
        for file in sorted(folder.glob("texts-*.safetensors")):
            self._add(file)
        if not self.places:
            raise OptionError(f"there are no recorded texts in {folder}", hint="Record some first")
        answers = [[self.ids(p)[p.prompt :] for p in self.places if p.half == h] for h in (1, 0)]
        self._tables = [count_successors(other, vocab) for other in answers]
        self.table = count_successors([*answers[0], *answers[1]], vocab)
        self._hints: dict[TextPlace, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def hint_with(self, table: Tensor | None) -> None:
        """Take hints from a table of answers to other prompts; None keeps those of these texts."""
        if table is not None:
            self.table = table.numpy().astype(np.int32)
            self._tables = [self.table] * _HALVES

    def _add(self, file: Path) -> None:
        with safe_open(file, framework="np") as opened:
            lengths = opened.get_tensor("lengths")
            kinds = opened.metadata()["kinds"].split("\n")
            self._ids[file] = opened.get_tensor("ids").astype(np.int64)
        firsts = [0, *accumulate(int(total) for _, total in lengths)]
        for i, (prompt, total) in enumerate(lengths.tolist()):
            if total - prompt >= _SHORTEST:
                self.places.append(
                    TextPlace(file, firsts[i], firsts[i] - i, prompt, total, kinds[i], i % _HALVES)
                )

    def ids(self, place: TextPlace) -> IntArray:
        """Return the token ids of a text."""
        return self._ids[place.file][place.row : place.row + place.total]

    def hints(self, place: TextPlace) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return hints and levels `[total - 1, steps]` of each row and step.

        Known are the tokens up to that of the row itself.
        """
        if place not in self._hints:
            self._hints[place] = text_hints(
                self.ids(place), place.prompt, self._tables[place.half], self.steps
            )
        return self._hints[place]

    def frequent(self, count: int) -> IntArray:
        """Return the ids of the most frequent tokens of all answers, ascending."""
        tokens = np.concatenate([self.ids(p)[p.prompt :] for p in self.places])
        counts = np.bincount(tokens)
        best = np.argsort(-counts, kind="stable")[:count]
        return np.sort(best[counts[best] > 0])

    def batch_ids(self, places: Sequence[TextPlace]) -> IntArray:
        """Return the ids that occur in some texts, ascending."""
        return np.unique(np.concatenate([self.ids(place) for place in places]))

    def batch(self, places: Sequence[TextPlace]) -> Texts:
        """Read some texts with their states."""
        length = max(p.total for p in places) - 1
        starts = max(p.starts for p in places)
        states, tokens = self._padded(places, length)
        hints = torch.zeros(len(places), length, self.steps, dtype=torch.int64)
        levels = torch.zeros_like(hints)
        for i, place in enumerate(places):
            if not self._hinted:
                continue
            words, kinds = self.hints(place)
            hints[i, : len(words)] = torch.from_numpy(words)
            levels[i, : len(kinds)] = torch.from_numpy(kinds)
        first = torch.tensor([place.prompt - 1 for place in places])
        return Texts(
            states=states,
            tokens=tokens,
            rows=(first[:, None] + torch.arange(starts)).clamp(max=length - 1),
            counts=torch.tensor([place.starts for place in places]),
            hints=hints,
            levels=levels,
        )

    def _padded(self, places: Sequence[TextPlace], length: int) -> tuple[torch.Tensor, ...]:
        tokens = torch.zeros(len(places), length, dtype=torch.int64)
        states: torch.Tensor | None = None
        for i, place in enumerate(places):
            count = place.total - 1
            tokens[i, :count] = torch.from_numpy(self.ids(place)[1:])
            own = self._states(place)
            if states is None:
                states = torch.zeros(len(places), length, *own.shape[1:])
            states[i, :count] = own
        assert states is not None  # there is at least one text
        return states, tokens

    def _states(self, place: TextPlace) -> torch.Tensor:
        with safe_open(place.file, framework="pt") as opened:
            rows = opened.get_slice("states")
            return rows[place.state : place.state + place.total - 1].float()


def text_hints(
    ids: IntArray, prompt: int, table: NDArray[np.int32], steps: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return hints and levels `[len(ids) - 1, steps]`; in the prompt of the first step only."""
    hints = Hints(table)
    words = np.zeros((len(ids) - 1, steps), dtype=np.int64)
    levels = np.zeros_like(words)
    hints.add(int(ids[0]))
    for row in range(len(ids) - 1):
        hints.add(int(ids[row + 1]))
        for step in range(steps if row >= prompt - 1 else 1):
            if row + 1 + step < len(ids):
                pair = int(ids[row + step]), int(ids[row + 1 + step])
                words[row, step], levels[row, step] = hints.find(*pair)
    return words, levels


def shuffled(places: Sequence[TextPlace], size: int, seed: int) -> list[list[TextPlace]]:
    """Return all texts once, in batches of up to `size` texts of similar lengths."""
    rng = random.Random(seed)
    order = list(places)
    rng.shuffle(order)
    batches: list[list[TextPlace]] = []
    for first in range(0, len(order), _BLOCK):
        block = sorted(order[first : first + _BLOCK], key=lambda place: place.starts)
        batches += [block[i : i + size] for i in range(0, len(block), size)]
    rng.shuffle(batches)
    return batches


def passes(
    places: Sequence[TextPlace], size: int, count: float, seed: int
) -> Iterator[list[TextPlace]]:
    """Yield the batches of `count` passes, of which the last may be a part."""
    whole = int(count)
    yield from chain.from_iterable(shuffled(places, size, seed + i) for i in range(whole))
    last = shuffled(places, size, seed + whole)
    yield from last[: round(len(last) * (count - whole))]
