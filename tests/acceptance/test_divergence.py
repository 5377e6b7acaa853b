import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outrider.acceptance import DIVERGENCES, divergence
from outrider.core.errors import OptionError

LN2 = math.log(2.0)
BY_PROBS = [name for name, d in DIVERGENCES.items() if not d.reads_token]


def softmax(logits: Tensor) -> np.ndarray:
    x = np.exp(logits.double().numpy() - float(logits.max()))
    return x / x.sum()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    pairs = zip(p, q, strict=True)
    return float(sum(a * math.log(a / b) if b else math.inf for a, b in pairs if a > 0))


def textbook(name: str, d: np.ndarray, v: np.ndarray) -> float:
    if name.startswith("topk_"):
        best = np.argsort(-v, kind="stable")[:50]
        d, v = (np.append(x[best], np.delete(x, best).sum()) for x in (d, v))
        name = name.removeprefix("topk_")
    m = (d + v) / 2
    return {
        "js": lambda: (kl(d, m) + kl(v, m)) / 2,
        "tv": lambda: 0.5 * float(np.abs(d - v).sum()),
        "kl_dv": lambda: kl(d, v),
        "kl_vd": lambda: kl(v, d),
        "js_fsd": lambda: (kl(m, d) + kl(m, v)) / 2,
    }[name]()


def pair(vocab: int, seed: int, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    d, v = scale * torch.randn(2, vocab, generator=g, dtype=torch.float64)
    return d, v


@pytest.mark.parametrize("name", BY_PROBS)
@pytest.mark.parametrize("vocab", [2, 7, 50, 51, 400])
def test_equals_the_textbook(name: str, vocab: int) -> None:
    for seed in range(3):
        d, v = pair(vocab, seed)
        expected = textbook(name, softmax(d), softmax(v))
        assert divergence(name)(d, v) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        single = divergence(name)(d.float(), v.float())
        assert single == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_rows_are_judged_one_by_one(name: str) -> None:
    pairs = [pair(60, seed) for seed in range(4)]
    tokens = torch.tensor([3, 0, 59, 7])
    d, v = (torch.stack([p[i] for p in pairs]) for i in (0, 1))
    rows = divergence(name).rows(d, v, tokens)
    single = [divergence(name)(*p, int(t)) for p, t in zip(pairs, tokens, strict=True)]
    assert rows.tolist() == pytest.approx(single)
    assert rows.dtype == torch.float64
    assert divergence(name).rows(d.bfloat16(), v.bfloat16(), tokens).dtype == torch.float32


logit = st.one_of(
    st.sampled_from([0.0, 1e4, -1e4, -math.inf, 1.0, -104.0]), st.floats(-1e4, 1e4, width=32)
)
rows = st.lists(logit, min_size=1, max_size=70).filter(lambda row: max(row) > -math.inf)


@given(d=rows, v=rows, double=st.booleans(), token=st.integers(0, 80))
def test_never_nan_and_within_range(d: list, v: list, double: bool, token: int) -> None:
    dtype = torch.float64 if double else torch.float32
    a, b = torch.tensor(d, dtype=dtype), torch.tensor(v, dtype=dtype)
    for measure in DIVERGENCES.values():
        value = measure(a, b, token)
        assert 0.0 <= value <= measure.maximum, measure.name
        if not measure.reads_token:
            assert measure(a, a) == pytest.approx(0.0, abs=1e-6), measure.name


def test_disjoint_supports_reach_the_maximum() -> None:
    d = torch.tensor([0.0, -math.inf])
    v = torch.tensor([-math.inf, 0.0])
    for name in BY_PROBS:
        assert divergence(name)(d, v) == pytest.approx(divergence(name).maximum)


@pytest.mark.parametrize("name", BY_PROBS)
def test_a_narrower_vocabulary_is_padded(name: str) -> None:
    d, v = pair(60, 1)
    padding = torch.full((9,), -math.inf, dtype=torch.float64)
    measure = divergence(name)
    assert measure(torch.cat((d, padding)), v) == pytest.approx(measure(d, v))
    assert measure(d, torch.cat((v, padding))) == pytest.approx(measure(d, v))
    assert measure(d[:40], v) == pytest.approx(measure(torch.cat((d[:40], padding)), v))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_without_a_distribution_gives_nan(bad: float) -> None:
    good = torch.zeros(5)
    broken = good.clone()
    broken[2] = bad
    nothing = torch.full((5,), -math.inf)
    for measure in DIVERGENCES.values():
        for row in (broken, nothing):
            for d, v in ((row, good), (good, row)):
                assert not measure(d, v, 1) <= measure.maximum, measure.name


@pytest.mark.parametrize(
    ("shares", "js", "js_fsd"),
    [
        ((0.3953, 0.6047), 0.0221, 0.0224),
        ((0.97, 0.01, 0.02), 0.6235, 1.5724),
        ((1e-6, 1 - 1e-6), 0.6931, 6.2146),
    ],
)
def test_the_published_js_is_another_measure(shares: tuple, js: float, js_fsd: float) -> None:
    """They agree when small and part when large: a threshold is nothing without its name."""
    d = torch.tensor(shares, dtype=torch.float64).log()
    v = d[[1, 0, *range(2, len(shares))]]
    assert divergence("js")(d, v) == pytest.approx(js, abs=1e-4)
    assert divergence("js_fsd")(d, v) == pytest.approx(js_fsd, abs=1e-4)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_total_variation_is_a_metric(seed: int, scale: float) -> None:
    (d, q), (t, _) = pair(20, seed, scale), pair(20, seed + 1, scale)
    tv = divergence("tv")
    assert tv(d, t) <= tv(d, q) + tv(q, t) + 1e-12
    assert tv(d, q) == pytest.approx(tv(q, d))


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_merging_tokens_never_adds_divergence(seed: int, scale: float) -> None:
    d, v = pair(120, seed, scale)
    for name in BY_PROBS:
        if name.startswith("topk_"):
            whole = divergence(name.removeprefix("topk_"))(d, v)
            assert divergence(name)(d, v) <= whole + 1e-9


def test_logp_abs_reads_the_token_alone() -> None:
    measure = divergence("logp_abs")
    d, v = pair(6, 3)
    log_d, log_v = np.log(softmax(d)), np.log(softmax(v))
    for token in range(6):
        assert measure(d, v, token) == pytest.approx(abs(log_d[token] - log_v[token]))
    assert measure(d[:4], v, 5) == math.inf
    assert measure(d, v, 99) == math.inf
    with pytest.raises(ValueError, match="tokens"):
        measure(d, v)
    assert [m.name for m in DIVERGENCES.values() if m.reads_token] == ["logp_abs"]


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"unknown divergence 'topk_j'.*'topk_js'"):
        divergence("topk_j")
    assert set(DIVERGENCES) == {
        *("js", "tv", "kl_dv", "kl_vd", "js_fsd", "logp_abs"),
        *("topk_js", "topk_tv", "topk_kl_dv", "topk_kl_vd", "topk_js_fsd"),
    }
