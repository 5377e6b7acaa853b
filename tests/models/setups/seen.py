"""The judge of caches that were taken apart: every row ever read, with what it saw."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.protocols import Segment
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.runners import load, pair_cases

WINDOWS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
}

PAIRS = pair_cases(WINDOWS, ("decoder", "native", "static", "transformers"))
TOLERANCE = {"decoder": 1e-5, "native": 1e-4, "static": 1e-5, "transformers": 1e-5}
"""How near the judge's logits must be; its angles and shares are float32."""


@dataclass
class Judge:
    """`transformers` in float64, one pass over rows of which each sees those it is told to.

    Every row that was ever read is an entry: its id, its position, and the entries it saw. So rows
    that stay while others come and go are judged too.
    """

    model: Any
    window: dict[str, int | None]
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    saw: list[list[int]] = field(default_factory=list)

    def note(self, token: int, position: int, seen: Sequence[int]) -> int:
        """A new entry that sees the entries `seen`, and itself."""
        self.ids.append(token)
        self.positions.append(position)
        self.saw.append([*seen, len(self.saw)])
        return len(self.saw) - 1

    @torch.no_grad()
    def logits(self) -> Tensor:
        """`[entries, vocab]`."""
        count = len(self.ids)
        seen = np.zeros((count, count), dtype=np.bool_)
        for row, entries in enumerate(self.saw):
            seen[row, entries] = True
        places = np.array(self.positions)
        behind = places[:, None] - places[None]
        masks = {
            kind: _additive(seen if window is None else seen & (behind < window))
            for kind, window in self.window.items()
        }
        return self.model(
            input_ids=torch.tensor([self.ids]),
            position_ids=torch.tensor([self.positions]),
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            use_cache=False,
        ).logits[0]

    def row(self, token: int, position: int, seen: Sequence[int]) -> Tensor:
        """`[vocab]` after a row that is looked at and forgotten."""
        self.note(token, position, seen)
        row = self.logits()[-1]
        for notes in (self.ids, self.positions, self.saw):
            notes.pop()
        return row


def _additive(seen: np.ndarray) -> Tensor:
    mask = torch.zeros(seen.shape, dtype=torch.float64)
    return mask.masked_fill(torch.from_numpy(~seen), torch.finfo(torch.float64).min)[None, None]


def windows_of(kind: str) -> dict[str, int | None]:
    """The window of each kind of layer; None sees all."""
    window = WINDOWS[kind].get("sliding_window")
    if kind == "qwen2":
        return {"full_attention": None, "sliding_attention": window}
    return {"all": window}


@dataclass
class Opened:
    """A model, the model of `transformers` that judges it, and how near they must be."""

    model: Any
    judging: Any
    kind: str
    tolerance: float

    def judge(self) -> Judge:
        """A judge that has seen nothing yet."""
        return Judge(self.judging, windows_of(self.kind))


def opened(kind: str, runner: str, folder: Path) -> Opened:
    """A random checkpoint of `kind`, opened by `runner`."""
    path = make_checkpoint(folder, kind, std=0.2, **WINDOWS[kind])
    judging = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    return Opened(load(runner, path), judging, kind, TOLERANCE[runner])


@dataclass
class Twin:
    """One cache, and which entries of the judge stand where in it."""

    model: Any
    judge: Judge
    cache: Any
    entries: list[int] = field(default_factory=list)

    @classmethod
    def start(cls, one: Opened, ids: Sequence[int], positions: Sequence[int] | None) -> "Twin":
        """A cache over a prompt."""
        places = None if positions is None else tuple(positions)
        [cache] = one.model.start([Prompt(token_ids=tuple(ids), positions=places)])
        return cls(one.model, one.judge(), cache)

    @property
    def places(self) -> list[int]:
        """Where the tokens of the text stand."""
        return self.cache.places.between(0, len(self.cache.text)).tolist()

    def note(self) -> None:
        """Rows read since the last note get their entries: each saw all before it."""
        text, places = self.cache.text, self.places
        for i in range(len(self.entries), self.cache.num_rows):
            self.entries.append(self.judge.note(text[i], places[i], self.entries))
        del self.entries[self.cache.num_rows :]

    def fork(self) -> "Twin":
        """Another cache with the same rows, before the same judge."""
        return Twin(self.model, self.judge, self.cache.fork(), list(self.entries))

    def expected(self) -> Tensor:
        """`[vocab]` after the text."""
        seen, text, places = list(self.entries), self.cache.text, self.places
        first = len(self.judge.ids)
        for i in range(len(seen), len(text)):
            seen.append(self.judge.note(text[i], places[i], seen))
        row = self.judge.logits()[-1]
        for notes in (self.judge.ids, self.judge.positions, self.judge.saw):
            del notes[first:]
        return row

    def found(self) -> Tensor:
        """`[vocab]` after the text; the cache goes on as it was."""
        twin = self.cache.fork()
        twin.commit(())
        return self.model.forward([Segment(twin, NO_IDS)], [as_ids([-1])])[0].logits[0].double()

    def check(self, tolerance: float) -> None:
        """The model says what the judge says."""
        self.note()
        difference = float((self.found() - self.expected()).abs().max())
        assert difference <= tolerance, difference
