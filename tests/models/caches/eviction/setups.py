"""Policies with small numbers, tiny checkpoints, and texts read in all the ways there are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider import kernels
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.caches.eviction.blocks.actqkv import ActQKV
from outrider.models.caches.eviction.blocks.infllm import InfLLM
from outrider.models.caches.eviction.cache import CompressedCache
from outrider.models.caches.eviction.h2o import H2O
from outrider.models.caches.eviction.heads.duo import Duo
from outrider.models.caches.eviction.heads.gates import Gates
from outrider.models.caches.eviction.heads.rlkv import RLKV
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.models.caches.eviction.snapkv import SnapKV
from outrider.models.caches.eviction.streaming import Streaming
from outrider.models.cpu.cache import CACHE_DTYPES
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.protocols import Segment
from tests.models.setups.make_checkpoints import make_checkpoint

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mha": ("llama", {"num_key_value_heads": 4, "head_dim": 40}),
    "qk norm": ("qwen3", {}),
    "window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "caps": (
        "gemma2",
        {"sliding_window": 3, "attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 20},
    ),
    "partial": ("phi3", {"sliding_window": None, "partial_rotary_factor": 0.5}),
    "unturned": ("smollm3", {"no_rope_layers": [1, 0]}),
    "all windows": ("mistral", {"sliding_window": 3}),
}
"""Kinds of `make_checkpoint` with settings: grouped and own key heads, windows, soft caps, norms of
heads, and layers that do not turn keys."""

needs_kernels = pytest.mark.skipif(not kernels.available(), reason="needs the compiled kernels")

RUNNERS = ("decoder", "float32", "bfloat16", "int8")
"""`Decoder` in float64, and `NativeDecoder` with caches of these dtypes."""


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


@cache
def checkpoint(kind: str) -> Path:
    """A random checkpoint of one of `KINDS`."""
    name, settings = KINDS[kind]
    path = Path(_folder().name) / kind.replace(" ", "-")
    return make_checkpoint(path, name, std=0.3, vocab_size=64, **settings)


@cache
def model(runner: str = "decoder", kind: str = "llama") -> Any:
    """A checkpoint of one of `KINDS`, opened by one of `RUNNERS`."""
    if runner == "decoder":
        return Decoder.load(checkpoint(kind), dtype=torch.float64)
    return NativeDecoder.load(
        checkpoint(kind), dtype=torch.float32, cache_dtype=CACHE_DTYPES[runner], threads=1
    )


def runner_cases(runners: Sequence[str] = RUNNERS) -> list[Any]:
    """Test parameters; compiled runners are skipped where there are no kernels."""
    return [pytest.param(r, marks=[] if r == "decoder" else [needs_kernels], id=r) for r in runners]


def gates_for(one: Any, seed: int = 0) -> Gates:
    """Random gates for a model."""
    return Gates.random(one.config.num_layers, one.config.num_kv_heads, seed)


POINTS = {"chunk": 4, "every": 4}
_BLOCKS = POINTS | {
    "budget": 17,
    "sinks": 2,
    "local": 0.25,
    "block": 3,
    "representatives": 2,
    "probe": 3,
}
"""2 first rows, 4 recent ones and some that form no block yet, and 2 blocks of 3 rows."""


def policy(name: str, one: Any, **options: Any) -> KvPolicy:
    """A policy with points at every fourth row, so small that it drops rows of short texts."""
    small: dict[str, dict[str, Any]] = {
        "streaming": {"budget": 8, "sinks": 2, **POINTS},
        "h2o": {"budget": 8, "each": 1, **POINTS},
        "snapkv": {"budget": 8, "window": 3, "kernel": 5, "pooling": "avg"},
        "duo": {"sinks": 2, "recent": 3, **POINTS},
        "rlkv": {"sinks": 1, "recent": 4, **POINTS},
        "infllm": _BLOCKS,
        "actqkv": _BLOCKS,
    }
    settings = small[name] | options
    if name in ("duo", "rlkv"):
        settings = {"gates": gates_for(one)} | settings
    return _CLASSES[name](**settings)


_CLASSES: dict[str, Any] = {
    "streaming": Streaming,
    "h2o": H2O,
    "snapkv": SnapKV,
    "duo": Duo,
    "rlkv": RLKV,
    "infllm": InfLLM,
    "actqkv": ActQKV,
}
NAMES = tuple(_CLASSES)


def everything(name: str, one: Any) -> KvPolicy:
    """A policy whose budget holds every text of these tests."""
    if name == "duo":
        return policy(name, one, budget=1.0)
    if name == "rlkv":
        return policy(name, one, sinks=100, recent=100)
    return policy(name, one, budget=200)


def under(name: str, runner: str = "decoder", kind: str = "llama", **options: Any) -> Any:
    """A model under a small policy."""
    one = model(runner, kind)
    return one.under(policy(name, one, **options))


def ids(count: int, seed: int = 0) -> tuple[int, ...]:
    """Random tokens."""
    return tuple(np.random.default_rng(seed).integers(0, 64, count).tolist())


def begin(one: Any, text: Sequence[int]) -> Any:
    """A cache over a prompt."""
    [own] = one.start([Prompt(token_ids=tuple(text))])
    return own


def read(one: Any, own: Any, drafted: Sequence[int] = (), parents: Any = None) -> Tensor:
    """Logits after the text and after each drafted token, float64."""
    segment = Segment(own, as_ids(list(drafted)), parents)
    want = as_ids([-1, *range(len(drafted))])
    return one.forward([segment], [want])[0].logits.double()


def look(one: Any, own: Any) -> Tensor:
    """Logits after the text, which stays as it was."""
    twin = own.fork()
    twin.commit(())
    return read(one, twin)[0]


def write(one: Any, own: Any, tokens: Sequence[int]) -> Tensor:
    """Logits before each of these tokens, which are appended one by one."""
    rows = []
    for token in tokens:
        rows.append(read(one, own)[0])
        own.commit([token])
    return torch.stack(rows) if rows else torch.zeros(0)


def write_drafted(
    one: Any, own: Any, tokens: Sequence[int], rng: np.random.Generator, *, trees: bool
) -> Tensor:
    """As `write`, with random drafts, of which some tokens are right."""
    rows, at = [], 0
    while at < len(tokens):
        limit = len(tokens) - at - 1
        if own.horizon is not None:
            limit = min(limit, own.horizon - 1)
        right = int(rng.integers(0, limit + 1))
        drafted, parents, depth = list(tokens[at : at + right]), list(range(-1, right - 1)), right
        deep = list(range(1, right + 1))
        wrong = int(rng.integers(0, 5)) if limit else 0
        for _ in range(wrong):
            parent = len(drafted) - 1 if not trees else int(rng.integers(-1, len(drafted)))
            depth = 1 if parent < 0 else deep[parent] + 1
            if depth > limit:
                continue
            drafted.append(int(rng.integers(0, 64)))
            parents.append(parent)
            deep.append(depth)
        found = read(one, own, drafted, as_ids(parents) if trees else None)
        emitted = tokens[at : at + int(rng.integers(1, limit + 2))]
        kept = own.match_prefix(emitted)
        emitted = emitted[: len(kept) + 1]
        rows += [found[0], *(found[1 + row] for row in kept)]
        own.commit(emitted)
        at += len(emitted)
    return torch.stack(rows)


@dataclass
class Point:
    """What a policy chose at one point."""

    rows: int
    kept: list[np.ndarray]
    turns: list[np.ndarray]


@dataclass
class Spy:
    """Notes of the choices of all caches, in order."""

    points: list[Point] = field(default_factory=list)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """What policies choose during a test."""
    notes, before = Spy(), CompressedCache._rebuild

    def rebuild(self: CompressedCache, choice: Any) -> None:
        planes = range(self.compression.shape.planes)
        turns = list(choice.turns) or [np.zeros(0, dtype=np.int64) for _ in planes]
        notes.points.append(Point(self.length, [np.array(r) for r in choice.rows], turns))
        before(self, choice)

    monkeypatch.setattr(CompressedCache, "_rebuild", rebuild)
    return notes


def kept(own: Any) -> list[list[int]]:
    """The rows that each plane holds."""
    planes = range(own.compression.shape.planes)
    return [own.planes.holds(plane, own.length).tolist() for plane in planes]


def feed_none(one: Any, own: Any) -> None:
    """Read pending tokens, and return nothing."""
    one.forward([Segment(own, NO_IDS)], [NO_IDS])
