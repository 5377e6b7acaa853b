"""The trained head of SpecDec++: its arithmetic, its files, and what it cannot change."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.errors import CheckpointError, OptionError
from outrider.policies import SpecDecPlus, StopHead

pytestmark = pytest.mark.method("specdec-plus")

WIDTH = 4


def make_head(seed: int = 0, layers: int = 3, weight: float = 6.0) -> StopHead:
    generator = torch.Generator().manual_seed(seed)
    return StopHead(
        layers=tuple(torch.randn(WIDTH, WIDTH, generator=generator) for _ in range(layers)),
        weight=torch.randn(2, WIDTH, generator=generator),
        bias=torch.randn(2, generator=generator),
        mismatch_weight=weight,
    )


def states(rows: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_head_of_the_paper(layers: int) -> None:
    """x + SiLU(W x) in each layer with weights of its own, then the second of two classes."""
    head = make_head(layers=layers)
    for state in states(5):
        x = state.double()
        for layer in head.layers:
            y = layer.double() @ x
            x = x + y / (1.0 + (-y).exp())
        scores = head.weight.double() @ x + head.bias
        assert head(state) == pytest.approx(float(scores.softmax(0)[1]), abs=1e-5)
    assert head.odds(states(5)).sigmoid().tolist() == pytest.approx(
        [head(state) for state in states(5)], abs=1e-6
    )


@given(st.floats(0.01, 0.99), st.floats(0.5, 9.0))
def test_the_weight_of_refused_tokens_is_taken_out(share: float, weight: float) -> None:
    """The chance s with the least loss -k log s - w (1 - k) log(1 - s) is k / (k + w (1 - k))."""
    best = share / (share + weight * (1.0 - share))
    odds = torch.tensor([math.log(best / (1.0 - best))], dtype=torch.float64)
    assert float(make_head(weight=weight).unweighted(odds)) == pytest.approx(share)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_length_is_nondecreasing_in_eta_with_a_trained_head(
    seeds: list[int], one: float, other: float
) -> None:
    """The chances are those of the head; eta 0 gives the least length and eta 1 the longest."""
    chances = [make_head()(states(1, seed)[0]) for seed in seeds]

    def length(eta: float) -> int:
        stop = SpecDecPlus(eta=eta, least=1, head=make_head()).budget(Counters()).stop
        assert stop is not None and stop.head is not None
        sizes = range(1, len(chances) + 1)
        return next((n for n in sizes if stop(chances[:n])), len(chances))

    low, high = sorted((one, other))
    assert 1 == length(0.0) <= length(low) <= length(high) <= length(1.0) == len(chances)


def write(folder: Path, drop: str = "", **facts) -> Path:
    """The files of a head, with some facts replaced and one tensor left out."""
    folder.mkdir(exist_ok=True)
    head = make_head()
    tensors = {f"layers.{i}.weight": layer for i, layer in enumerate(head.layers)}
    tensors |= {"out.weight": head.weight, "out.bias": head.bias}
    tensors.pop(drop, None)
    save_file(tensors, folder / "stop.safetensors")
    known = {"format": "outrider-stop-1", "layers": 3, "mismatch_weight": 6.0}
    (folder / "stop.json").write_text(json.dumps(known | facts), encoding="utf-8")
    return folder


def test_a_head_from_files(tmp_path: Path) -> None:
    policy = SpecDecPlus(head=str(write(tmp_path / "head")))
    head = policy.trained
    assert isinstance(head, StopHead) and head.mismatch_weight == 6.0 and head.width == WIDTH
    assert head(states(1)[0]) == make_head()(states(1)[0])
    assert str(head) == str(tmp_path / "head")


@pytest.mark.parametrize(
    "fault",
    [{"format": "other"}, {"layers": -1}, {"layers": 2.5}, {"layers": 4}, {"mismatch_weight": 0}]
    + [{"drop": name} for name in ("layers.1.weight", "out.weight", "out.bias")],
)
def test_damaged_files_are_refused_in_one_line(fault: dict, tmp_path: Path) -> None:
    folder = write(tmp_path / "head", **fault)
    with pytest.raises(CheckpointError, match="outrider train stop") as refusal:
        SpecDecPlus(head=folder)
    assert "\n" not in str(refusal.value)


def test_states_of_another_size_are_refused() -> None:
    with pytest.raises(OptionError, match="reads states of size 4, the draft model has 5"):
        make_head()(torch.zeros(5))
