"""What the device chooses is what `Sampler.choose` chooses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.cuda.choosing import UNDECIDED, choose, chooser_for
from outrider.models.cuda.row_choices import RowChoices
from outrider.models.cuda.runner import EagerRunner
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.noise import gumbel, signed, uniforms
from tests.models.cuda.tape import TapeRunner

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "t1": {"temperature": 1.0},
    "t0.3": {"temperature": 0.3},
    "top_k 1": {"temperature": 1.0, "top_k": 1},
    "top_k": {"temperature": 1.3, "top_k": 7},
    "top_k beyond": {"temperature": 1.0, "top_k": 900},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "top_p small": {"temperature": 1.0, "top_p": 1e-6},
    "min_p": {"temperature": 1.0, "min_p": 0.1},
    "all": {"temperature": 0.9, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
    "bans": {"banned_tokens": (*range(0, 300, 2), 5000)},
    "bans and noise": {"temperature": 1.0, "top_p": 0.9, "banned_tokens": tuple(range(5))},
}


def logits(rows: int, vocab: int, dtype: torch.dtype = torch.float32, scale: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(rows * vocab)
    return (scale * torch.randn(rows, vocab, generator=generator)).to(dtype)


def on_device(
    sampler: Sampler, rows: Tensor, indices: IntArray, runner: Any = None
) -> IntArray | None:
    choices = RowChoices(runner or EagerRunner(), rows.shape[1], rows)
    return choices.of(rows, sampler, indices)


def on_host(sampler: Sampler, rows: Tensor, indices: IntArray) -> list[int]:
    return [sampler.choose(row, [0] * int(index)) for row, index in zip(rows, indices, strict=True)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("vocab", [11, 300, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_same_as_the_host(sampling: str, vocab: int, dtype: torch.dtype) -> None:
    """bfloat16 rows of 1000 logits are full of ties: of these as many as a program holds."""
    count = 64 if dtype == torch.bfloat16 else 24
    rows = logits(count, vocab, dtype)
    sampler = Sampler(SamplingParams(**SAMPLINGS[sampling], seed=11), sample=2)
    indices = np.arange(count) // 3 + 5
    found, expected = on_device(sampler, rows, indices), on_host(sampler, rows, indices)
    assert found is not None
    decided = found != UNDECIDED
    assert decided.mean() > 0.95
    assert found[decided].tolist() == np.array(expected)[decided].tolist()


def test_a_flat_nucleus_is_left_open() -> None:
    """1000 nearly equal tokens: 256 candidates hold no 90 %, and the host must look."""
    rows = logits(3, 1000, scale=0.01)
    found = on_device(Sampler(SamplingParams(temperature=1.0, top_p=0.9)), rows, np.arange(3))
    assert found is not None and found.tolist() == [UNDECIDED] * 3


def test_ties_at_the_edge_are_left_open() -> None:
    rows = torch.zeros(1, 1000)
    rows[0, 999] = 5.0
    for options in ({"top_k": 2}, {"top_k": 3, "top_p": 0.5}):
        found = on_device(Sampler(SamplingParams(temperature=1.0, **options)), rows, np.arange(1))
        assert found is not None and found.tolist() == [UNDECIDED]


def test_forbidden_tokens_are_not_an_open_edge() -> None:
    rows = torch.full((1, 1000), -math.inf)
    rows[0, 500:505] = torch.arange(5.0)
    sampler = Sampler(SamplingParams(temperature=1.0, top_k=9, top_p=0.999, seed=1))
    found = on_device(sampler, rows, np.arange(1))
    assert found is not None and found.tolist() == on_host(sampler, rows, np.arange(1))


@pytest.mark.parametrize("sampling", ["greedy", "t1", "top_k", "top_p", "all"])
def test_unusable_rows_are_left_to_the_host(sampling: str) -> None:
    rows = logits(5, 300)
    rows[1, 7] = math.nan
    rows[2, 7] = math.inf
    rows[3] = -math.inf
    sampler = Sampler(SamplingParams(**SAMPLINGS[sampling], seed=3))
    found = on_device(sampler, rows, np.arange(5))
    assert found is not None and found[1:4].tolist() == [UNDECIDED] * 3
    assert [found[0], found[4]] == on_host(sampler, rows[[0, 4]], np.array([0, 4]))


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logit_bias": {3: 1.0}},
        {"forced_tokens": {9: 3}},
        {"typical_p": 0.9},
        {"logits_processors": (lambda ids, scores: scores,)},
        {"min_new_tokens": 9},
        {"top_k": 2000},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_not_plain_is_left_to_the_host(options: dict[str, Any]) -> None:
    params = SamplingParams(temperature=1.0, **options)
    assert chooser_for(Sampler(params, end_ids=(1,)), 5) is None
    assert on_device(Sampler(params, end_ids=(1,)), logits(2, 40), np.arange(2)) is None


def test_what_does_not_touch_the_choice_is_plain() -> None:
    options: dict[str, Any] = {
        "stop": ("x",),
        "stop_token_ids": (3,),
        "logprobs": 2,
        "max_new_tokens": 7,
        "min_new_tokens": 4,
        "stopping_criteria": (lambda ids, scores: False,),
    }
    assert chooser_for(Sampler(SamplingParams(**options)), 4) is not None


def test_samplers_of_another_kind_are_left_to_the_host() -> None:
    class Other(Sampler):
        """Might choose otherwise."""

    assert chooser_for(Other(SamplingParams()), 0) is None


def test_more_rows_than_a_program_holds() -> None:
    assert on_device(Sampler(SamplingParams()), logits(65, 9), np.arange(65)) is None


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_recipe_can_be_captured(sampling: str) -> None:
    runner, options = TapeRunner(), SAMPLINGS[sampling]
    choices = RowChoices(runner, 300, logits(1, 300))
    for seed, rows in ((1, logits(3, 300)), (2, logits(4, 300))):
        sampler = Sampler(SamplingParams(**options, seed=seed))
        indices = np.arange(len(rows))
        found = choices.of(rows, sampler, indices)
        assert found is not None and found.tolist() == on_host(sampler, rows, indices)
    assert runner.replays == [0, 0]


def test_noise_of_many_streams_at_once() -> None:
    keys, ids = [3, (1 << 64) - 5], torch.arange(9)
    column = torch.tensor([[signed(key)] for key in keys])
    for row, key in enumerate(keys):
        assert torch.equal(uniforms(column, ids.expand(2, 9))[row], uniforms(key, ids))
        assert torch.equal(gumbel(column, ids.expand(2, 9))[row], gumbel(key, ids))


def test_float64_weighs_in_float64() -> None:
    """Two tokens that float32 could not tell apart."""
    rows = torch.zeros(1, 4, dtype=torch.float64)
    rows[0, 2] = 1e-12
    chooser = chooser_for(Sampler(SamplingParams()), 0)
    assert chooser is not None
    weights = torch.from_numpy(chooser.weights)
    keys, none = torch.zeros(1, dtype=torch.int64), torch.zeros(4, dtype=torch.bool)
    assert choose(chooser.recipe, rows, keys, weights, none).item() == 2


def test_bans_follow_the_sampler() -> None:
    """One after the other through the same buffers: other bans, none, all."""
    rows = logits(4, 50)
    choices, indices = RowChoices(EagerRunner(), 50, rows), np.arange(4)
    best = tuple(rows.argmax(dim=-1).tolist())
    for banned in (best, (), (1, 2, 3), best):
        sampler = Sampler(SamplingParams(banned_tokens=banned))
        found = choices.of(rows, sampler, indices)
        assert found is not None and found.tolist() == on_host(sampler, rows, indices)
    everything = Sampler(SamplingParams(banned_tokens=tuple(range(50))))
    found = choices.of(rows, everything, indices)
    assert found is not None and found.tolist() == [UNDECIDED] * 4
