"""The arithmetic of memory, before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.errors import MemoryPlanError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.memory import (
    GIB,
    OVERHEAD,
    Demand,
    available_memory,
    cache_numbers,
    plan_memory,
    text_config,
)
from outrider.models.memory import _unused as unused
from outrider.models.tabular import TabularModel
from outrider.models.transformers.model import TransformersModel
from tests.models.setups.built import ALSO_RUNS, RUNS, build
from tests.models.setups.make_checkpoints import make_checkpoint

LARGE = Demand(tier="target", weights=15 * GIB, cache=1 << 18, context_length=131_072)
SMALL = Demand(tier="draft", weights=2 * GIB, cache=1 << 15, context_length=4096)


def test_the_sum() -> None:
    plan = plan_memory([LARGE, SMALL], context=8192, sequences=2, available=64 * GIB)
    cache = [(1 << 18) * 8192 * 2, (1 << 15) * 4096 * 2]
    assert [line.nbytes for line in plan.lines] == [
        15 * GIB,
        cache[0],
        2 * GIB,
        cache[1],
        OVERHEAD,
    ]
    assert plan.total == 17 * GIB + sum(cache) + OVERHEAD
    assert plan.fits


def test_exactly_enough_is_enough() -> None:
    total = plan_memory([SMALL], context=10, available=64 * GIB).total
    assert plan_memory([SMALL], context=10, available=total).fits
    with pytest.raises(MemoryPlanError):
        plan_memory([SMALL], context=10, available=total - 1)


def test_refusal_shows_the_arithmetic_in_one_line() -> None:
    with pytest.raises(MemoryPlanError) as refusal:
        plan_memory([LARGE, SMALL], context=8192, available=16 * GIB)
    assert str(refusal.value) == (
        "not enough memory: 15.0 GiB target weights + 2.0 GiB target cache at 8192 tokens + "
        "2.0 GiB draft weights + 0.1 GiB draft cache at 4096 tokens + 0.2 GiB overhead = "
        "19.4 GiB, 16.0 GiB available on cpu. Use --dtype int8 (CPU) or bfloat16, a shorter "
        "--context-length, smaller models or another device"
    )


def test_int8_weights_have_a_float32_cache(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, "llama"))
    brief, exact = (
        Demand.of_checkpoint("target", checkpoint, d) for d in (torch.int8, torch.float32)
    )
    assert brief.cache == exact.cache and 1.9 * brief.weights < exact.weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_is_weighed_by_its_headers(dtype: torch.dtype, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "qwen2", dtype=torch.float16)
    demand = Demand.of_checkpoint("target", open_checkpoint(path), dtype)
    model = Decoder.load(path, dtype=dtype)
    assert demand.weights == model.info.num_parameters * dtype.itemsize
    assert demand.cache == model.info.bytes_per_token
    assert demand.context_length == model.info.context_length


@pytest.mark.parametrize("kind", [*RUNS, *ALSO_RUNS])
def test_the_cache_is_as_large_as_foretold(kind: str) -> None:
    model = build(*(RUNS | ALSO_RUNS)[kind])
    expected = cache_numbers(text_config(model.config.to_dict())) * 4
    assert TransformersModel(model).info.bytes_per_token == expected


def test_latent_attention_is_counted_expanded() -> None:
    config: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "kv_lora_rank": 8}
    config |= {"qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 6}
    assert cache_numbers(text_config({"text_config": config})) == 2 * 4 * 12


def test_a_loaded_model_needs_only_its_cache(tmp_path: Path) -> None:
    model = Decoder.load(make_checkpoint(tmp_path, "llama"))
    demand = Demand.of_model("target", model)
    assert (demand.weights, demand.cache) == (0, model.info.bytes_per_token)
    plan = plan_memory([demand], context=100, available=GIB)
    assert [line.label for line in plan.lines] == ["target cache at 100 tokens", "overhead"]
    assert Demand.of_model("draft", TabularModel.random()).cache == 0


def test_what_the_machine_has(tmp_path: Path) -> None:
    assert available_memory("cpu") > 0
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  64 kB\nMemFree:  3 kB\nMemAvailable:  32 kB\n")
    assert unused(meminfo) == 32 * 1024
    meminfo.write_text("MemTotal:  64 kB\n")
    assert unused(meminfo) is None
    assert unused(tmp_path / "none") is None
