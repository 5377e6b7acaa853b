"""What is promised where a target rounds a row differently beside other rows (drafted rows)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import outrider
from outrider import kernels
from outrider.cli.ui.bench_tables import remarks
from outrider.cli.ui.render import summary
from outrider.core.types import Exactness
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.transformers.model import TransformersModel
from outrider.protocols import LanguageModel
from tests.models.setups.built import RUNS, build
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = pytest.mark.usefixtures("unchecked")

IDENTICAL, ROUNDING = Exactness.IDENTICAL, Exactness.ROUNDING
OPTIONS: dict[str, Any] = {"drafter": "recycling", "num_draft_nodes": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("rounding") / "model", tokenizer=True)


def through_transformers(_: Path, kind: str, dtype: torch.dtype) -> LanguageModel:
    return TransformersModel(build(*RUNS[kind]).to(dtype))  # pyright: ignore[reportCallIssue]


def in_pytorch(folder: Path, dtype: torch.dtype) -> LanguageModel:
    return Decoder.load(folder, dtype=dtype)


def compiled(folder: Path, dtype: torch.dtype) -> LanguageModel:
    if not kernels.available():
        pytest.skip(kernels.reason_missing())
    return NativeDecoder.load(folder, dtype=dtype, threads=1)


TARGETS: dict[str, tuple[Callable[[Path], LanguageModel], Exactness]] = {
    "compiled float32": (partial(compiled, dtype=torch.float32), IDENTICAL),
    "compiled bfloat16": (partial(compiled, dtype=torch.bfloat16), IDENTICAL),
    "compiled int8": (partial(compiled, dtype=torch.int8), IDENTICAL),
    "PyTorch float64": (partial(in_pytorch, dtype=torch.float64), IDENTICAL),
    "PyTorch float32": (partial(in_pytorch, dtype=torch.float32), ROUNDING),
    "PyTorch bfloat16": (partial(in_pytorch, dtype=torch.bfloat16), ROUNDING),
    **{
        f"transformers {dtype}": (
            partial(through_transformers, kind="llama", dtype=getattr(torch, dtype)),
            IDENTICAL if dtype == "float64" else ROUNDING,
        )
        for dtype in ("float64", "float32", "bfloat16", "float16")
    },
    "float32 inside float64": (
        partial(through_transformers, kind="gemma2 window", dtype=torch.float64),
        ROUNDING,
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_promise_of_a_drafted_text(name: str, folder: Path) -> None:
    make, promise = TARGETS[name]
    model = make(folder)
    result = outrider.load(model, **OPTIONS).generate([5, 9, 40], max_new_tokens=2)
    assert result.speculation.exactness is promise
    found = result.to_dict()
    assert found["speculation"]["exactness"] == str(promise)
    assert summary(found).endswith(f"exact ({promise})")
    head = outrider.load(model, **OPTIONS).strategy.describe().splitlines()[0]
    assert head.endswith(f": {promise}")
    plain = outrider.load(model, mode="none").generate([5, 9, 40], max_new_tokens=2)
    assert plain.speculation.exactness is IDENTICAL


@pytest.mark.parametrize(
    ("mode", "promise"),
    [("distribution", "distribution"), ("fuzzy", "lossy"), ("none", "identical")],
)
def test_a_weaker_promise_stays(mode: str, promise: str, folder: Path) -> None:
    target, draft = in_pytorch(folder, torch.bfloat16), in_pytorch(folder, torch.bfloat16)
    assert outrider.load(target, draft=draft, mode=mode).strategy.exactness == promise


def test_the_tables_of_the_bench_say_it() -> None:
    def told(promise: Exactness) -> list[str]:
        systems = {"none": {"exactness": "identical"}, "lookup": {"exactness": str(promise)}}
        for one in systems.values():
            one |= {"peak_resident_bytes": 1}
        figures: dict[str, Any] = {
            "workloads": {"all": {"systems": systems}},
            "left_out": {"no_room": {}, "too_short": []},
            "rivals": {"same_text": {}, "missing": {}},
        }
        return [line for line in remarks(figures) if "rounding" in line]

    [line] = told(ROUNDING)
    assert line.startswith("lookup: identical up to rounding. The target")
    assert told(IDENTICAL) == []
