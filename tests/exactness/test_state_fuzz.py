"""I3: after any sequence of propose, accept, refuse, cancel, stop, fork and truncate, a cache
equals a fresh prefill of its text, minus what is pending."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.tree import path_to
from outrider.core.types import NO_IDS, Draft, Prompt, as_ids
from outrider.models.caches.attaching import attach
from outrider.models.llama.decoder import Decoder
from outrider.models.transformers.model import TransformersModel
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.make_checkpoints import make_checkpoint, make_model

VOCAB = 11
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


class Walker:
    """One cache on a random walk. `tail` is what inner rounds accepted but nobody committed."""

    def __init__(self, model: Any, seed: int) -> None:
        self.rng = random.Random(seed)
        self.model = model
        prompt = self._tokens(self.rng.randint(1, 6))
        [self.cache] = model.start([Prompt(token_ids=prompt)])
        self.text, self.tail = list(prompt), NO_IDS
        self.left: list[Any] = []

    def _tokens(self, n: int) -> tuple[int, ...]:
        return tuple(self.rng.randrange(VOCAB) for _ in range(n))

    def _room(self) -> int:
        return self.cache.remaining - len(self.tail) - 1

    def _tree(self) -> Draft:
        size = self.rng.randint(0, min(6, max(self._room(), 0)))
        chain = self.rng.random() < 0.5
        parents = [i - 1 if chain else self.rng.randint(-1, i - 1) for i in range(size)]
        return Draft(
            tokens=as_ids(self._tokens(size)), parents=as_ids(parents), sources=("x",) * size
        )

    def propose(self) -> None:
        """An inner round: verify a tree, accept a path of it, add a token, commit nothing."""
        if self._room() < 2:
            return
        draft = self._tree()
        segment, want = attach(self.cache, self.tail, draft)
        self.model.forward([segment], [want])
        node = self.rng.randint(-1, len(draft) - 1)
        accepted = [int(draft.tokens[n]) for n in path_to(draft.parents, node)]
        self.tail = as_ids([*self.tail, *accepted, self.rng.randrange(VOCAB)])

    def commit(self) -> None:
        """The outer verdict: a prefix of the tail, then perhaps another token (a refusal)."""
        kept = self.tail[: self.rng.randint(0, len(self.tail))].tolist()
        if self.rng.random() < 0.7 and self.cache.remaining > len(kept):
            kept.append(self.rng.randrange(VOCAB))
        self._commit(kept)

    def lag(self) -> None:
        """A round this model took no part in."""
        self.cancel()
        self._commit(list(self._tokens(self.rng.randint(0, min(3, self.cache.remaining)))))

    def cancel(self) -> None:
        """The round is forgotten."""
        self._commit([])

    def fork(self) -> None:
        """Go on with a copy; the one left behind must stay as it is."""
        self.cancel()
        self.left.append((self.cache, list(self.text)))
        self.cache = self.cache.fork()

    def truncate(self) -> None:
        self.tail = NO_IDS
        length = self.rng.randint(1, len(self.text))
        self.cache.truncate(length)
        del self.text[length:]

    def reuse(self) -> None:
        """The next turn: a prompt that shares a part of the text."""
        shared = self.text[: self.rng.randint(0, len(self.text))]
        prompt = (*shared, *self._tokens(self.rng.randint(1, 4)))[:60]
        [self.cache] = self.model.start([Prompt(token_ids=prompt)], [self.cache])
        self.text, self.tail = list(prompt), NO_IDS

    def _commit(self, tokens: Sequence[int]) -> None:
        self.cache.commit(as_ids(tokens))
        self.text += tokens
        self.tail = NO_IDS

    def step(self) -> None:
        moves = (self.propose, self.commit, self.lag, self.cancel, self.fork, self.truncate)
        weights = (8, 6, 1, 1, 1, 1, 1)
        self.rng.choices((*moves, self.reuse), weights)[0]()

    def check(self) -> None:
        """Texts as expected, caches as fresh."""
        if len(self.tail):
            self.cancel()
        for cache, text in [*self.left[-1:], (self.cache, self.text)]:
            assert list(cache.text) == text
            assert_equals_fresh_prefill(self.model, cache)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: Any) -> Decoder:
    path: Path = tmp_path_factory.mktemp("fuzz")
    make_checkpoint(path, "llama", dtype=torch.float64, **SHAPE)
    return Decoder.load(path, dtype=torch.float64)


@pytest.fixture(scope="module")
def wrapped() -> TransformersModel:
    return TransformersModel(make_model("qwen3", **SHAPE).to(torch.float64).eval())


def walk(model: Any, seeds: range, steps: int) -> None:
    for seed in seeds:
        walker = Walker(model, seed)
        try:
            for _ in range(steps):
                walker.step()
            walker.check()
        except Exception as error:
            raise AssertionError(f"walk {seed}: {error}") from error


@pytest.mark.parametrize(
    "block", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 20))]
)
def test_two_thousand_walks_of_our_decoder(decoder: Decoder, block: int) -> None:
    walk(decoder, range(block * 100, block * 100 + 100), steps=12)


def test_walks_of_the_transformers_runner(wrapped: TransformersModel) -> None:
    walk(wrapped, range(30), steps=12)


@pytest.mark.slow
def test_long_walks(decoder: Decoder) -> None:
    walk(decoder, range(10_000, 13_000), steps=40)


def test_the_check_sees_a_stale_row(decoder: Decoder) -> None:
    """The walk proves nothing if a wrong cache passes."""
    walker = Walker(decoder, 1)
    walker._commit(list(walker._tokens(5)))
    walker.propose()
    walker.commit()
    with torch.inference_mode():
        walker.cache.keys[0, 0, 0] += 1e-3
    with pytest.raises(AssertionError):
        walker.check()
