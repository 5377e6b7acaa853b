"""The ways to run a model, the checkpoints that all of them run, and the pairs to be tested."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark.structures import ParameterSet

from outrider import kernels
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cuda import StaticDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.transformers.model import TransformersModel

RUNNERS: dict[str, Callable[[Path | Checkpoint, torch.dtype], Any]] = {
    "decoder": lambda source, dtype: Decoder.load(source, dtype=dtype),
    "native": lambda source, _: NativeDecoder.load(source, dtype=torch.float32, threads=1),
    "int8": lambda source, _: NativeDecoder.load(
        source, dtype=torch.int8, cache_dtype=torch.int8, threads=1
    ),
    "static": lambda source, dtype: StaticDecoder.load(source, dtype=dtype),
    "transformers": lambda source, dtype: TransformersModel.load(source, dtype=dtype),
}
"""Each takes a checkpoint and a dtype; the compiled ones have a dtype of their own."""

COMPILED = ("native", "int8")

CAPS = {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0}
"""Low enough to change the scores and logits of tiny models."""

MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.5,
}

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 3},
    "qwen2": {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1},
    "qwen3": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "gemma2": {"sliding_window": 3, "query_pre_attn_scalar": 20} | CAPS,
    "gemma3": {"sliding_window": 3, "sliding_window_pattern": 2, "query_pre_attn_scalar": 20},
    "phi3": {"sliding_window": 3, "partial_rotary_factor": 0.5},
    "olmo2": {},
    "granite": MULTIPLIERS,
    "glm4": {},
}
"""Kinds of checkpoints with options of `make_checkpoint`; windows are shorter than the trees."""


def load(runner: str, source: Path | Checkpoint, dtype: torch.dtype = torch.float64) -> Any:
    """The checkpoint, opened by `runner`."""
    return RUNNERS[runner](source, dtype)


def runner_cases(runners: Iterable[str]) -> list[ParameterSet]:
    """Test parameters; a compiled runner is skipped where there are no kernels."""
    return [pytest.param(runner, id=runner, marks=_skips(runner)) for runner in runners]


def pair_cases(
    kinds: Iterable[str], runners: Iterable[str], *, slow: bool = False
) -> list[ParameterSet]:
    """Test parameters `(kind, runner)`, all runners of one kind after each other."""
    names = list(runners)
    more = [pytest.mark.slow] if slow else []
    return [
        pytest.param((kind, runner), id=f"{kind}-{runner}", marks=[*_skips(runner), *more])
        for kind in kinds
        for runner in names
    ]


def _skips(runner: str) -> list[pytest.MarkDecorator]:
    missing = runner in COMPILED and not kernels.available()
    return [pytest.mark.skip(reason=kernels.reason_missing())] if missing else []
