"""Models of the tiny family that count what they read, prompts, and how the target judges texts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from outrider import Generator, load
from outrider.core.types import IntArray, Prompt, Rows, as_ids
from outrider.models.loading import load_model
from outrider.models.sources.families import families_folder, family
from outrider.models.wrappers.passing import ModelWrapper
from outrider.protocols import Cache, LanguageModel, Segment


@dataclass
class Read:
    """What a model has read since the counts were last reset.

    Attributes:
        forwards: passes over the weights; one text at a time.
        rows: tokens that were read.
        hand_overs: passes that began with more than one token that others had written.
        again: rows of a model without a cache at hand-overs: it reads the whole text then.
    """

    forwards: int = 0
    rows: int = 0
    hand_overs: int = 0
    again: int = 0


class Counted(ModelWrapper):
    """Counts what the inner model reads after prompts."""

    def __init__(self, inner: LanguageModel) -> None:
        super().__init__(inner, inner.info)
        self.chain_decoder = None
        self.read = Read()

    def start(self, prompts: Sequence[Prompt], reuse: Any = None) -> list[Cache]:
        """Read prompts."""
        return list(self.inner.start(prompts, reuse))

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read segments, and count their tokens."""
        for segment in segments:
            pending = 0 if segment.cache.fed else len(segment.cache.pending)
            rows = pending + len(segment.tokens)
            self.read.forwards += 1
            self.read.rows += rows
            self.read.hand_overs += pending > 1
            self.read.again += len(segment.cache.text) if pending > 1 else rows
        return self.inner.forward(segments, want)


@dataclass
class Family:
    """The tiers of the tiny family in float32, one thread.

    Attributes:
        models: by tier.
        codec: the tokenizer.
    """

    models: dict[str, Counted]
    codec: Any = field(repr=False)

    @classmethod
    def load(cls) -> "Family":
        """Load all tiers."""
        folders = family("tiny")
        made = {
            tier: Counted(load_model(folder, dtype="float32", threads=1))
            for tier, folder in folders.items()
        }
        codec = load(made["target"], tokenizer=folders["target"], mode="none").tokenizer
        return cls(made, codec)

    def generator(self, model: LanguageModel) -> Generator:
        """Return a generator of a model, without drafts."""
        return load(model, tokenizer=self.codec, mode="none")

    def parameters(self, tier: str) -> int:
        """Return the number of parameters of a tier."""
        found = self.models[tier].info.num_parameters
        assert found is not None
        return found


def own_prompts() -> list[Any]:
    """Return the prompts that ship with the family, in their order: texts and messages."""
    lines = (families_folder() / "tiny/prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def other_prompts() -> list[Any]:
    """Return the prompts of `outrider bench` that are not among those of the family."""
    seen = {json.dumps(prompt) for prompt in own_prompts()}
    path = families_folder().parent / "bench/prompts.jsonl"
    found = [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [prompt for prompt in found if json.dumps(prompt) not in seen]


def spread(prompts: Sequence[Any], count: int) -> list[Any]:
    """Return `count` prompts, evenly spread over their order."""
    return [prompts[i * len(prompts) // count] for i in range(min(count, len(prompts)))]


def ids_of(codec: Any, prompt: Any) -> Prompt:
    """Return a prompt as the generator reads it."""
    ids = codec.encode(prompt) if isinstance(prompt, str) else codec.chat(prompt)
    return Prompt(token_ids=tuple(ids))


def rows_of(model: LanguageModel, prompt: Prompt, output: Sequence[int]) -> torch.Tensor:
    """Return the logits `[tokens, vocab]` from which the tokens of a text would be chosen."""
    [cache] = model.start([prompt])
    last = len(output) - 1
    segment = Segment(cache, as_ids(output[:last]))
    [rows] = model.forward([segment], [as_ids(range(-1, last))])
    return rows.logits.float()


@dataclass(frozen=True)
class Judged:
    """What a model says about a text.

    Attributes:
        losses: `[tokens]` in nats.
        own: `[tokens]` whether it would have chosen the token.
    """

    losses: NDArray[np.float64]
    own: NDArray[np.bool_]


def judged(model: LanguageModel, prompt: Prompt, output: Sequence[int]) -> Judged:
    """Return what a model says about a text."""
    inner = model.inner if isinstance(model, Counted) else model
    logits = rows_of(inner, prompt, output)
    chosen = torch.tensor(output)
    losses = torch.nn.functional.cross_entropy(logits, chosen, reduction="none")
    return Judged(losses.double().numpy(), (logits.argmax(dim=-1) == chosen).numpy())


def same_beginning(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Return the share of `theirs` up to the first token that differs."""
    pairs = zip(ours, theirs, strict=False)
    count = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    return count / len(theirs)
