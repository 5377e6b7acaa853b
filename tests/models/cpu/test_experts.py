"""Experts in the compiled runner: rows do not depend on each other, and errors are seen."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import outrider
from outrider import kernels
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.kernels.layout import Experts, Matrix
from outrider.models.checkpoints import checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.formats import FORMATS, lossless
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.threads import Threads
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.experts import Mixture
from outrider.protocols import Segment
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import all_logits, apart, begin, close, next_logits, random_ids

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())

SHAPES: dict[str, dict[str, Any]] = {
    "even": {"hidden_size": 64, "moe_intermediate_size": 96},
    "odd": {"hidden_size": 36, "moe_intermediate_size": 50, "intermediate_size": 70},
}
"""Odd sizes fill neither a vector nor a panel; one layer of each model has no experts."""

TEXT, MORE = random_ids(70), random_ids(63, seed=1)
EXACT = ("float32", "stored")
ROUNDED = {"bfloat16": 0.03, "float16": 0.01, "int8": 0.15, "int8-channels": 0.15, "int4": 1.0}
"""Median over rows of the largest error: rounding changes the experts of some rows."""


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: Any, tmp_path_factory: Any) -> Path:
    options = SHAPES[request.param] | {"num_hidden_layers": 3, "mlp_only_layers": [1]}
    return make_checkpoint(tmp_path_factory.mktemp("model"), "qwen3_moe", **options)


@pytest.fixture(scope="module", params=FORMATS)
def model(request: Any, folder: Path) -> NativeDecoder:
    return NativeDecoder.load(folder, dtype=FORMATS[request.param].dtype, threads=1)


def rows_after(model: NativeDecoder, tokens: tuple[int, ...], want: Any) -> torch.Tensor:
    segment = Segment(begin(model, TEXT), as_ids(tokens))
    return model.forward([segment], [as_ids(want)])[0].logits


def test_rows_do_not_depend_on_the_width(model: NativeDecoder) -> None:
    whole = rows_after(model, MORE, range(-1, len(MORE)))
    for width in (0, 1, 2, 3, 7, 8, 9, 16, 31, 62):
        part = rows_after(model, MORE[:width], range(-1, width))
        assert torch.equal(part, whole[: width + 1])


@settings(max_examples=15)
@given(data=st.data())
def test_rows_do_not_depend_on_the_other_rows(model: NativeDecoder, data: st.DataObject) -> None:
    """A subset of up to 64 texts of one token each, in any order, on any number of threads."""
    tokens = data.draw(st.lists(st.integers(0, 287), min_size=1, max_size=64, unique=True))
    before, model.threads = model.threads, Threads.fixed(data.draw(st.integers(1, 3)))
    caches = model.start([Prompt(token_ids=(token,)) for token in tokens])
    rows = model.forward([Segment(c, NO_IDS) for c in caches], [as_ids([-1])] * len(tokens))
    model.threads = before
    for i in {0, len(tokens) // 2, len(tokens) - 1}:
        assert torch.equal(rows[i].logits[0], next_logits(model, begin(model, (tokens[i],))))


def test_is_near_the_decoder(model: NativeDecoder, folder: Path) -> None:
    name = next(name for name, known in FORMATS.items() if known.dtype == model.dtype)
    ours, theirs = all_logits(model, TEXT), all_logits(Decoder.load(folder), TEXT)
    if name in EXACT:
        close(ours, theirs)
    else:
        assert (ours - theirs).abs().amax(dim=1).median() < ROUNDED[name]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_nan_stays_in_its_rows(
    bad: float, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router that reads NaN chooses experts that exist, and their result is NaN."""
    monkeypatch.setattr(checkpoint, "check_finite", lambda *_: None)
    path = make_checkpoint(tmp_path / "model", "mixtral")
    file = path / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][7, 3] = bad
    save_file(tensors, file, metadata={"format": "pt"})
    logits = all_logits(NativeDecoder.load(path, dtype=dtype), (1, 2, 7, 3))
    assert logits[:2].isfinite().all() and logits[2:].isnan().all()


# -- drafts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_drafted_text_equals_undrafted_text(kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", kind)
    other = make_checkpoint(tmp_path / "other", kind, dtype=torch.bfloat16)  # nearly the same
    options: dict[str, Any] = {"max_new_tokens": 80, "ignore_eos": True}
    for dtype, temperature in (("float32", 0.0), ("int8", 0.8)):
        options |= {"temperature": temperature, "seed": 5}
        plain = outrider.load(path, mode="none", dtype=dtype).generate([7, 8, 9], **options)
        drafted = outrider.load(path, draft=other, dtype=dtype, mode="exact", guard="off")
        found = drafted.generate([7, 8, 9], **options)
        assert found.token_ids == plain.token_ids
        assert found.speculation.target.accepted > 10


# -- mutations ---------------------------------------------------------------------------------


def each(model: NativeDecoder) -> list[Experts]:
    layers = model._packed.layout.layers
    found = [layers[i].experts for i in range(model.num_layers)]
    return [pointer.contents for pointer in found if pointer]


def not_normalized(experts: Experts) -> None:
    experts.normalized = 0


def one_less(experts: Experts) -> None:
    experts.chosen -= 1


def other_order(experts: Experts) -> None:
    for matrices in (experts.gate_up, experts.down):
        copies = [Matrix.from_buffer_copy(matrices[i]) for i in range(experts.count)]
        for i, matrix in enumerate(copies[::-1]):
            matrices[i] = matrix


def other_weights(experts: Experts) -> None:
    """The experts are those of the router, their probabilities are not."""
    whole = ctypes.c_float * (experts.router.panels * 16 * experts.router.inputs)
    data = whole.from_address(experts.router.data)
    weights = np.frombuffer(data, dtype=np.float32)
    weights *= 3.0


@pytest.mark.parametrize("mutation", [not_normalized, one_less, other_order, other_weights])
def test_a_wrong_runner_is_seen(mutation: Callable[[Experts], None], tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "mixtral")
    model, reference = NativeDecoder.load(path, dtype=torch.float32), Decoder.load(path)
    close(all_logits(model, TEXT), all_logits(reference, TEXT))
    for experts in each(model):
        mutation(experts)
    apart(all_logits(model, TEXT), all_logits(reference, TEXT))


# -- weights -----------------------------------------------------------------------------------


def test_the_smallest_exact_format_ignores_routers(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "mixtral", dtype=torch.bfloat16)
    assert lossless(open_checkpoint(path)).name == "bfloat16"
    brief = NativeDecoder.load(path, dtype=torch.bfloat16)
    exact = NativeDecoder.load(path, dtype=torch.float32)
    assert torch.equal(all_logits(brief, TEXT), all_logits(exact, TEXT))


def test_all_experts_are_counted_and_packed_once(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "mixtral", hidden_size=64, intermediate_size=64)
    opened = open_checkpoint(path)
    model = NativeDecoder.load(path, dtype=torch.float32)
    assert model.info.num_parameters == opened.num_parameters
    embed = opened.tensors["model.embed_tokens.weight"].num_elements
    unread = embed + 2 * 3 * 3 * 64 * 64  # two layers, three of six experts
    assert model.info.weight_bytes == pytest.approx(4 * (opened.num_parameters - unread), rel=0.02)
    assert Decoder.load(path).info.weight_bytes == 4 * (opened.num_parameters - unread)
    packed = model._parts.packed
    kept = sum(t.nbytes for t in packed.kept if isinstance(t, torch.Tensor))
    assert kept == pytest.approx(4 * opened.num_parameters, rel=0.02)


def test_the_router_is_in_float32(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "mixtral")
    for layer in Decoder.load(path, dtype=torch.bfloat16).weights.layers:
        assert isinstance(layer.experts, Mixture) and layer.experts.router.dtype == torch.float32
