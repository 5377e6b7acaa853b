"""The compiled choice is the one that `sampling/sampler.py` spells out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider import kernels
from outrider.core.errors import LogitsError
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.noise import Purpose

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())

WARPS = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "hot": {"temperature": 3.0},
    "top-k": {"temperature": 1.0, "top_k": 7},
    "top-p": {"temperature": 0.8, "top_p": 0.95},
    "narrow top-p": {"temperature": 0.8, "top_p": 0.1},
    "min-p": {"temperature": 1.2, "min_p": 0.05},
    "all": {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
}


def by_the_book(sampler: Sampler, logits: torch.Tensor, index: int) -> int:
    return sampler.draw(sampler.support(logits, [0] * index), index, Purpose.CHOICE)


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("size", [1, 5, 16, 33, 4096])
def test_equals_the_sampler(name: str, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for seed in range(40):
        sampler = Sampler(SamplingParams(seed=seed, **WARPS[name]), sample=seed % 3)
        logits = torch.randn(size, generator=generator) * 3
        assert sampler.choose_at(logits, seed) == by_the_book(sampler, logits, seed)


@given(
    logits=st.lists(
        st.one_of(st.integers(-3, 3).map(float), st.just(float("-inf"))), min_size=1, max_size=40
    ),
    name=st.sampled_from(sorted(WARPS)),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_ties_and_impossible_tokens(logits: list[float], name: str, seed: int) -> None:
    """Equal scores and -inf: where the warps must break ties as the book does."""
    sampler = Sampler(SamplingParams(seed=seed, **WARPS[name]))
    row = torch.tensor(logits)
    if max(logits) == float("-inf"):
        with pytest.raises(LogitsError, match="no token is allowed"):
            sampler.choose_at(row, 0)
        return
    assert sampler.choose_at(row, 0) == by_the_book(sampler, row, 0)


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("size", [1, 5, 33, 500])
def test_only_allowed_tokens_are_chosen(name: str, size: int) -> None:
    """Masks with few and many tokens, one, and none; banned tokens stay banned."""
    generator = torch.Generator().manual_seed(size)
    for seed in range(20):
        logits = torch.randn(size, generator=generator) * 3
        share = (0.0, 1 / size, 0.3, 0.9)[seed % 4]
        mask = torch.rand(size, generator=generator) < share
        banned = tuple(logits.topk(1).indices.tolist()) if seed % 3 == 0 else ()
        kept = logits.masked_fill(~mask, -torch.inf)
        kept[list(banned)] = -torch.inf
        own = Sampler(SamplingParams(seed=seed, banned_tokens=banned, **WARPS[name]))
        found = kernels.choose(logits, own.kernel, seed, mask.numpy())
        if not bool((kept > -torch.inf).any()):
            assert found == kernels.NOTHING_ALLOWED
        else:
            plain = Sampler(SamplingParams(seed=seed, **WARPS[name]))
            assert found == by_the_book(plain, kept, seed)


def test_bad_scores_are_found_where_nothing_is_allowed() -> None:
    logits = torch.zeros(40)
    logits[3] = float("nan")
    mask = torch.arange(40).numpy() > 20
    found = kernels.choose(logits, Sampler(SamplingParams(seed=1)).kernel, 0, mask)
    assert found == kernels.NOT_FINITE


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 17, 39])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_bad_logits_are_refused(bad: float, place: int, temperature: float) -> None:
    logits = torch.zeros(40)
    logits[place] = bad
    with pytest.raises(LogitsError, match="NaN"):
        Sampler(SamplingParams(seed=1, temperature=temperature)).choose_at(logits, 0)


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("size", [5, 16, 33, 500])
def test_banned_tokens_are_never_chosen(name: str, size: int) -> None:
    """The best ones are banned, and some that the vocabulary does not have."""
    generator = torch.Generator().manual_seed(size)
    for seed in range(20):
        logits = torch.randn(size, generator=generator) * 3
        best = logits.topk(size // 2).indices.tolist()
        banned = (*best, size, 1 << 31, 1 << 40)
        sampler = Sampler(SamplingParams(seed=seed, banned_tokens=banned, **WARPS[name]))
        kept = logits.clone()
        chosen = sampler.choose_at(logits, seed)
        assert torch.equal(logits, kept)
        assert chosen not in best and chosen == by_the_book(sampler, logits, seed)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_bad_logits_of_banned_tokens_are_refused(temperature: float) -> None:
    logits = torch.zeros(40)
    logits[3] = float("nan")
    banned = SamplingParams(seed=1, temperature=temperature, banned_tokens=(3,))
    with pytest.raises(LogitsError, match="NaN"):
        Sampler(banned).choose_at(logits, 0)
    everything = SamplingParams(seed=1, temperature=temperature, banned_tokens=tuple(range(40)))
    with pytest.raises(LogitsError, match="no token is allowed"):
        Sampler(everything).choose_at(torch.zeros(40), 0)


@pytest.mark.usefixtures("unchecked")
def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    counts = torch.zeros(4)
    sampler = Sampler(SamplingParams(seed=5, temperature=1.0))
    for index in range(20_000):
        counts[sampler.choose_at(logits, index)] += 1
    expected = 20_000 * logits.softmax(0)
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3  # chi-square, 3 degrees, 0.1 %


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.2},
        {"logit_bias": {3: 1.0}},
        {"forced_tokens": {0: 2}},
        {"typical_p": 0.5, "temperature": 1.0},
        {"logits_processors": (lambda ids, scores: scores,)},
        {"min_new_tokens": 1},
    ],
)
def test_other_settings_are_left_to_the_sampler(settings: dict) -> None:
    assert Sampler(SamplingParams(seed=0, **settings)).choose_at(torch.zeros(8), 0) is None


def test_float64_is_left_to_the_sampler() -> None:
    sampler = Sampler(SamplingParams(seed=0))
    assert sampler.choose_at(torch.zeros(8, dtype=torch.float64), 0) is None
