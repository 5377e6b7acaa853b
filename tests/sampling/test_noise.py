"""The noise: pinned to published constants, uniform, and independent between its uses."""

import itertools
import math

import numpy as np
import torch

from outrider.sampling.noise import Purpose, gumbel, stream_key, uniform, uniforms

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
SPLITMIX_FROM_0 = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
"""The first outputs of SplitMix64 from state 0, as its authors' code prints them."""


def unit(bits: int) -> float:
    return ((bits >> 12) + 0.5) / 2**52


def test_is_splitmix64() -> None:
    expected = [unit(bits) for bits in SPLITMIX_FROM_0]
    assert uniforms(0, torch.tensor([1, 2, 3])).tolist() == expected
    assert uniform(0) == expected[0]


PINNED = (0x78AE5A9A6B5FD45E, 0xF6156E27BDAC5D63)


def test_stream_keys_are_pinned() -> None:
    """A change here changes every sampled text that was ever reported."""
    assert stream_key(0, 0, 0, Purpose.CHOICE) == PINNED[0]
    assert stream_key(1234, 5, 6, Purpose.ACCEPT, tier=2, sibling=3) == PINNED[1]


def test_one_number_is_the_tensor_hash_of_token_1() -> None:
    for key in (0, 1, MASK, 1 << 63, 0xDEADBEEF):
        assert uniform(key) == float(uniforms(key, torch.tensor([1])))


def test_a_number_depends_on_its_token_alone() -> None:
    whole = gumbel(77, torch.arange(1000))
    some = torch.tensor([999, 3, 512])
    assert torch.equal(gumbel(77, some), whole[some])
    assert torch.equal(gumbel(77, torch.arange(1064))[:1000], whole)


def _undo_shift(x: int, bits: int) -> int:
    out = x
    for _ in range(64 // bits + 1):
        out = x ^ (out >> bits)
    return out


def key_of(bits: int) -> int:
    """The key whose first output is `bits`: the finaliser run backwards."""
    x = _undo_shift(bits, 31)
    x = (x * pow(0x94D049BB133111EB, -1, 1 << 64)) & MASK
    x = (_undo_shift(x, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64)) & MASK
    return (_undo_shift(x, 30) - GOLDEN) & MASK


def test_never_reaches_zero_or_one() -> None:
    assert uniform(key_of(SPLITMIX_FROM_0[0])) == unit(SPLITMIX_FROM_0[0])
    for bits in (0, MASK):
        key = key_of(bits)
        assert 0.0 < uniform(key) < 1.0
        assert bool(torch.isfinite(gumbel(key, torch.tensor([1]))).all())


def test_streams_differ_by_everything_they_are_for() -> None:
    seeds, samples, indices = (0, 1, 2, -1, 1 << 40), range(3), range(3)
    parts = itertools.product(seeds, samples, indices, Purpose, range(3), range(3))
    keys = [stream_key(*part) for part in parts]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key <= MASK for key in keys)


def test_samples_of_one_seed_are_not_other_seeds() -> None:
    assert stream_key(0, 1, 0, Purpose.CHOICE) != stream_key(1, 0, 0, Purpose.CHOICE)


def test_moments() -> None:
    n = 200_000
    u = uniforms(stream_key(3, 0, 0, Purpose.CHOICE), torch.arange(n)).numpy()
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / n)
    counts, _ = np.histogram(u, bins=64, range=(0, 1))
    assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 63 + 4 * math.sqrt(2 * 63)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / math.sqrt(n)
    g = gumbel(stream_key(3, 0, 0, Purpose.CHOICE), torch.arange(n)).numpy()
    assert abs(g.mean() - 0.5772156649) < 4 * math.sqrt(math.pi**2 / 6 / n)
    assert abs(g.var() - math.pi**2 / 6) < 0.03


def test_the_same_token_at_neighbouring_places_is_independent() -> None:
    """Across indices, seeds, samples, purposes and tiers: the numbers of one token id."""
    n = 2000
    base = np.array([uniform(stream_key(1, 0, i, Purpose.CHOICE)) for i in range(n)])
    others = {
        "index": [uniform(stream_key(1, 0, i + 1, Purpose.CHOICE)) for i in range(n)],
        "seed": [uniform(stream_key(2, 0, i, Purpose.CHOICE)) for i in range(n)],
        "sample": [uniform(stream_key(1, 1, i, Purpose.CHOICE)) for i in range(n)],
        "purpose": [uniform(stream_key(1, 0, i, Purpose.ACCEPT)) for i in range(n)],
        "tier": [uniform(stream_key(1, 0, i, Purpose.CHOICE, 1)) for i in range(n)],
        "sibling": [uniform(stream_key(1, 0, i, Purpose.CHOICE, 0, 1)) for i in range(n)],
    }
    assert abs(base.mean() - 0.5) < 4 * math.sqrt(1 / 12 / n)
    for what, other in others.items():
        assert abs(np.corrcoef(base, other)[0, 1]) < 4 / math.sqrt(n), what
