"""The kept support is that of `transformers` for the same settings in the same order."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from outrider.sampling.warps import warp

Settings = dict[str, float]


def reference(scores: Tensor, settings: Settings) -> Tensor:
    """Scores after the warpers of `transformers`, in the order in which it applies them."""
    warpers = []
    if settings.get("temperature", 1.0) != 1.0:
        warpers.append(TemperatureLogitsWarper(settings["temperature"]))
    if settings.get("top_k", 0):
        warpers.append(TopKLogitsWarper(int(settings["top_k"])))
    if settings.get("top_p", 1.0) < 1.0:
        warpers.append(TopPLogitsWarper(settings["top_p"]))
    if settings.get("min_p", 0.0):
        warpers.append(MinPLogitsWarper(settings["min_p"]))
    if settings.get("typical_p", 1.0) < 1.0:
        warpers.append(TypicalLogitsWarper(settings["typical_p"]))
    out = scores[None].clone()
    for warper in warpers:
        out = warper(torch.zeros(1, 1, dtype=torch.int64), out)
    return out[0]


def row(vocab: int, seed: int, scale: float, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(vocab, generator=generator, dtype=torch.float64).to(dtype)


def check(scores: Tensor, settings: Settings) -> int:
    expected = reference(scores, settings)
    support = warp(scores, **settings)  # pyright: ignore[reportArgumentType]
    ids = torch.nonzero(expected > -math.inf).flatten()
    assert support.ids.tolist() == ids.tolist()
    theirs = expected.softmax(0)[ids].double()
    assert torch.allclose(support.probabilities(), theirs, atol=1e-6)
    return len(ids)


settings = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.05, 3.0),
        "top_k": st.integers(1, 6000),
        "top_p": st.floats(0.01, 0.999),
        "min_p": st.floats(0.001, 0.99),
        "typical_p": st.floats(0.05, 0.99),
    },
)


@given(
    settings=settings,
    vocab=st.sampled_from([50, 255, 256, 257, 1000, 5000]),
    seed=st.integers(0, 10_000),
    scale=st.floats(0.05, 6.0),
)
def test_same_support_as_transformers(
    settings: Settings, vocab: int, seed: int, scale: float
) -> None:
    check(row(vocab, seed, scale), settings)


@pytest.mark.parametrize(("scale", "inside"), [(4.0, True), (0.3, False)])
def test_top_p_with_and_without_a_full_sort(scale: float, inside: bool) -> None:
    """A nucleus within the 256 candidates looked at first, and one that is wider."""
    kept = check(row(5000, 1, scale), {"top_p": 0.9})
    assert (kept < 256) is inside


def test_top_p_right_at_the_candidates_looked_at() -> None:
    scores = -9.0 - torch.arange(600, dtype=torch.float64) / 1000  # no ties: their order is free
    scores[torch.randperm(600)[:256]] = row(256, 0, 0.1)
    mass = float(scores.softmax(0).sort(descending=True).values[:256].sum())
    for p in (mass - 1e-9, mass + 1e-9):
        check(scores, {"top_p": p})
    assert warp(scores, top_p=mass - 1e-9).ids.numel() == 256
    assert warp(scores, top_p=mass + 1e-9).ids.numel() == 257


@pytest.mark.parametrize("vocab", [100, 1000])
def test_of_ties_at_the_edge_of_the_nucleus_the_lowest_ids_stay(vocab: int) -> None:
    """With and without a full sort, so that every tier keeps the same tokens."""
    scores = torch.zeros(vocab)
    scores[vocab // 2 :] = 1.0
    better = math.e / (1 + math.e)  # the mass of the upper half
    support = warp(scores, top_p=better * 0.501)
    assert support.ids.tolist() == list(range(vocab // 2, vocab // 2 + vocab // 4 + 1))


@given(seed=st.integers(0, 999), k=st.integers(1, 60))
def test_ties_with_the_kth_best_stay(seed: int, k: int) -> None:
    check(row(60, seed, 2.0).round(), {"top_k": k})


@given(settings=settings, seed=st.integers(0, 999))
def test_forbidden_tokens_stay_out(settings: Settings, seed: int) -> None:
    scores = row(50, seed, 2.0)
    scores[row(50, seed + 1, 1.0) > -0.5] = -math.inf
    scores[7] = 0.0
    check(scores, settings)


@given(settings=settings, seed=st.integers(0, 999))
def test_never_empty(settings: Settings, seed: int) -> None:
    single = torch.full((9,), -math.inf)
    single[4] = float(seed)
    support = warp(single, **settings)  # pyright: ignore[reportArgumentType]
    assert support.ids.tolist() == [4] and support.probabilities().tolist() == [1.0]


def test_temperature_zero_is_the_best_token_and_the_first_of_ties() -> None:
    support = warp(torch.tensor([0.0, 3.0, 3.0, 1.0]), temperature=0.0, top_p=0.1)
    assert support.ids.tolist() == [1]


@given(settings=settings, seed=st.integers(0, 999), extra=st.integers(1, 600))
def test_padding_changes_nothing(settings: Settings, seed: int, extra: int) -> None:
    scores = row(300, seed, 1.0)
    wide = torch.cat((scores, torch.full((extra,), -math.inf, dtype=scores.dtype)))
    plain, padded = (warp(s, **settings) for s in (scores, wide))  # pyright: ignore[reportArgumentType]
    assert torch.equal(plain.ids, padded.ids) and torch.equal(plain.scores, padded.scores)


def test_single_precision_keeps_the_same_tokens() -> None:
    for seed in range(5):
        check(row(2000, seed, 2.0, torch.float32), {"temperature": 0.8, "top_p": 0.9})
