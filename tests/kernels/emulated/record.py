"""Runs small models with the kernels of this machine and writes every call to a folder.

Usage: python -m tests.kernels.emulated.record LIBRARIES FOLDER, where LIBRARIES holds what
`scripts/build_wheel.py` compiles, of which that for AVX2 is used. All formats of weights and of
caches are used, experts, windows and caps among them.
"""

import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from outrider.core.types import NO_IDS, as_ids
from outrider.kernels import library, prebuilt, reason_missing, topk
from outrider.kernels.levels import LEVELS
from outrider.models.cpu.cache import CACHE_DTYPES
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.kernels.emulated.images import Recorder
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import from_checkpoint
from tests.models.setups.reference import begin, random_ids, tree_logits
from tests.models.setups.runners import KINDS

EVEN: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 160}
ODD: dict[str, Any] = {"hidden_size": 36, "intermediate_size": 50, "head_dim": 10}
BIG: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
"""GGUF files have blocks of 256 weights."""

CASES = [
    *((dtype, "float32", "llama", ODD) for dtype in FORMATS if dtype != "stored"),
    ("float32", "float32", "llama", EVEN),
    ("int8", "int8", "qwen3_moe", {**EVEN, "moe_intermediate_size": 96}),
    ("int4", "bfloat16", "gemma2", EVEN),
    ("bfloat16", "int8", "gemma3", ODD),
    ("int8-channels", "bfloat16", "glm4", EVEN),
    ("float16", "bfloat16", "granite", ODD),
    ("int8", "float32", "olmo2", EVEN),
]
STORED = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")

TEXT, MORE = random_ids(37), random_ids(9, seed=1)


def use(model: NativeDecoder) -> None:
    """Read a text, a draft of rows together and one by one, a tree; write a chain.

    The rows have the same bits in both ways here, so they do wherever these calls do.
    """
    segment = Segment(begin(model, TEXT), as_ids(MORE))
    [whole] = model.forward([segment], [np.arange(-1, len(MORE))])
    for i in range(3):
        part = Segment(begin(model, (*TEXT, *MORE[:i])), as_ids(MORE[i : i + 1]))
        [alone] = model.forward([part], [np.arange(0, 1)])
        assert torch.equal(alone.logits[0], whole.logits[i + 1])
    cache = begin(model, TEXT)
    tree_logits(model, cache, as_ids([5, 6, 7, 8, 9]), as_ids([-1, -1, 0, 1, 3]))
    cache.commit([6, 8])
    params = SamplingParams(temperature=0.8, top_p=0.9, top_k=40, seed=3)
    model.write_chains([ChainRequest(Segment(cache, NO_IDS), Sampler(params), [0] * 4, 5)])
    model.embed([1, 2, 3])


def stored(folder: Path, kind: str) -> NativeDecoder:
    """A model whose matrices have the blocks `kind` of a GGUF file."""
    source = make_checkpoint(folder / "source", "qwen3", **BIG)
    file = from_checkpoint(source, {}, default=kind).write(folder / "model.gguf")
    return NativeDecoder.load(file, dtype=None, threads=2)


def record(recorder: Recorder) -> None:
    """Run all models."""
    for dtype, cache, kind, sizes in CASES:
        recorder.label = f"{dtype}-{cache}-{kind}-{sizes['hidden_size']}"
        with TemporaryDirectory() as scratch:
            path = make_checkpoint(Path(scratch), kind, **(KINDS[kind] | sizes))
            dtypes = {"dtype": FORMATS[dtype].dtype, "cache_dtype": CACHE_DTYPES[cache]}
            use(NativeDecoder.load(path, threads=2, **dtypes))
    for kind in STORED:
        recorder.label = kind
        with TemporaryDirectory() as scratch:
            use(stored(Path(scratch), kind))
    recorder.label = "best"
    topk(torch.randn(3, 100, generator=torch.Generator().manual_seed(0)), 5, totals=True)


def main(libraries: Path, folder: Path) -> None:
    """Replace the kernels of this process by those for AVX2, and record what they are asked."""
    prebuilt.FOLDER = libraries
    prebuilt.features = lambda: next(level.needs for level in LEVELS if level.name == "avx2")
    loaded = library()
    assert loaded is not None, reason_missing()
    recorder = Recorder(loaded, folder)
    loading: Any = import_module("outrider.kernels.library")
    loading._load = lambda: (recorder, "")
    record(recorder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
