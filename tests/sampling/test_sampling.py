"""Processing, choosing, and the options that are refused."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config
from torch import Tensor
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from outrider.core.errors import LogitsError, OptionError
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.noise import Purpose
from outrider.sampling.warps import Support

ZERO = torch.zeros(6, dtype=torch.float64)


def sampler(*, prompt: tuple[int, ...] = (), end: tuple[int, ...] = (), **options) -> Sampler:
    params = SamplingParams.of(**{"seed": 0, **options})
    return Sampler(params, prompt_ids=prompt, end_ids=end)


def row(vocab: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(vocab, generator=generator, dtype=torch.float64)


# -- processing -----------------------------------------------------------------------------


@given(
    penalty=st.floats(0.2, 3.0),
    prompt=st.lists(st.integers(0, 29), max_size=8),
    output=st.lists(st.integers(0, 29), max_size=8),
    seed=st.integers(0, 999),
)
def test_repetition_penalty_is_that_of_transformers(
    penalty: float, prompt: list[int], output: list[int], seed: int
) -> None:
    logits = row(30, seed)
    ids = torch.tensor([prompt + output], dtype=torch.int64)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[None].clone())[0]
    before = logits.clone()
    ours = sampler(prompt=tuple(prompt), repetition_penalty=penalty).process(logits, output)
    assert torch.allclose(ours, expected)
    assert torch.equal(logits, before)


def test_penalties_by_hand() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0, 4.0, 0.0, 1.0], dtype=torch.float64)
    s = sampler(
        prompt=(0, 1),
        repetition_penalty=2.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
    )
    got = s.process(logits, [3, 3, 5])
    # Repetition sees prompt and output, presence and frequency the output alone.
    assert got.tolist() == [1.0, -4.0, 1.0, 2.0 - 0.5 - 0.5, 0.0, 0.5 - 0.5 - 0.25]
    assert s.process(logits, []).tolist() == [1.0, -4.0, 1.0, 4.0, 0.0, 1.0]


def test_drafted_tokens_are_penalised_like_written_ones() -> None:
    s = sampler(frequency_penalty=3.0)
    logits = torch.tensor([2.0, 1.0, 0.0])
    assert [s.choose(logits, seen) for seen in ([], [0], [0, 1])] == [0, 1, 2]


def test_bias_bans_and_forced_tokens() -> None:
    biased = sampler(logit_bias={2: 1.5, 4: -1.0})
    assert biased.process(ZERO, []).tolist() == [0, 0, 1.5, 0, -1.0, 0]
    banned = sampler(banned_tokens=[1, 3])
    assert banned.process(ZERO, []).tolist() == [0, -math.inf, 0, -math.inf, 0, 0]
    forced = sampler(forced_tokens={1: 5}, banned_tokens=(5,), temperature=1.0)
    for logits in (row(6, seed) for seed in range(5)):
        assert forced.choose(logits, [0]) == 5
        assert forced.choose(logits, []) != 5
    assert ZERO.abs().sum() == 0


def test_end_tokens_wait_for_min_new_tokens() -> None:
    s = sampler(end=(1,), stop_token_ids=(2,), min_new_tokens=2, max_new_tokens=4)
    logits = torch.tensor([0.0, 9.0, 8.0])
    assert [s.choose(logits, [0] * n) for n in range(4)] == [0, 0, 1, 1]
    assert s.end_ids == {1, 2}
    assert sampler(end=(1,), stop_token_ids=(2,), ignore_eos=True).end_ids == {2}


def test_options_that_name_tokens_of_a_wider_vocabulary_fit_a_narrow_model() -> None:
    """One sampler serves all tiers, and a draft model's head may be narrower."""
    s = sampler(
        prompt=(0, 90),
        end=(95,),
        logit_bias={80: 5.0},
        banned_tokens=(85,),
        min_new_tokens=3,
        repetition_penalty=1.5,
        presence_penalty=0.5,
    )
    assert 0 <= s.choose(row(50, 0), [99, 3]) < 50
    with pytest.raises(LogitsError, match="no token is allowed"):
        sampler(forced_tokens={0: 60}).choose(row(50, 0), [])


def test_processors_see_the_text_and_their_order() -> None:
    seen: list[list[int]] = []

    def shift(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids[0].tolist())
        return scores.roll(1, dims=-1)

    def only_best(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill(scores < scores.max(), -math.inf)

    s = sampler(prompt=(4, 2), logits_processors=[shift, only_best], temperature=1.0)
    logits = torch.tensor([0.0, 5.0, 1.0])
    assert s.choose(logits, [1]) == 2
    assert seen == [[4, 2, 1]] and logits.tolist() == [0.0, 5.0, 1.0]


def test_half_precision_is_widened_before_any_arithmetic() -> None:
    logits = torch.tensor([10.0, 10.0625, 9.9375]).bfloat16()
    wide = sampler(temperature=0.7, logit_bias={0: 0.01})
    assert wide.process(logits, []).dtype == torch.float32
    assert wide.process(logits, []).tolist() == pytest.approx([10.01, 10.0625, 9.9375])
    assert torch.equal(wide.probs(logits, []), wide.probs(logits.float(), []))


@pytest.mark.parametrize("logits", [[0.0, math.nan], [-math.inf, -math.inf]])
def test_unusable_logits_raise(logits: list[float]) -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(LogitsError):
            sampler(temperature=temperature).choose(torch.tensor(logits), [])
    with pytest.raises(LogitsError):
        sampler(banned_tokens=range(6)).choose(ZERO, [])


# -- choosing -------------------------------------------------------------------------------


def chi_surplus(counts: np.ndarray, probs: np.ndarray) -> float:
    cells = probs > 0
    assert counts[~cells].sum() == 0
    expected = probs[cells] * counts.sum()
    chi = ((counts[cells] - expected) ** 2 / expected).sum()
    freedom = cells.sum() - 1
    return float((chi - freedom) / math.sqrt(2 * freedom))


WARPS = {"temperature": 0.8, "top_k": 9, "top_p": 0.95, "min_p": 0.01}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("by", ["index", "sample", "seed"])
def test_choices_follow_the_distribution(by: str) -> None:
    logits = row(12, 3)
    probs = sampler(**WARPS).probs(logits, []).numpy()
    assert probs.sum() == pytest.approx(1.0) and 2 < (probs > 0).sum() < 12
    params = SamplingParams.of(**WARPS, seed=1)
    one, counts = Sampler(params), np.zeros(12)
    support = one.support(logits, [])
    for i in range(1500):
        if by == "index":
            token = one.draw(support, i, Purpose.CHOICE)
        else:
            seed, sample = (1, i) if by == "sample" else (i, 0)
            token = Sampler(replace(params, seed=seed), sample=sample).draw(
                support, 0, Purpose.CHOICE
            )
        counts[token] += 1
    assert chi_surplus(counts, probs) < 3.5


@pytest.mark.usefixtures("unchecked")
def test_draws_from_probabilities_follow_them() -> None:
    probs = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
    s, counts = sampler(), np.zeros(4)
    for i in range(1500):
        counts[s.draw_from(3 * probs, i, Purpose.RESIDUAL, tier=1)] += 1  # need not sum to one
    assert chi_surplus(counts, probs.numpy()) < 3.5


@given(seed=st.integers(0, 9999), extra=st.integers(1, 300), index=st.integers(0, 50))
def test_padding_the_vocabulary_changes_no_choice(seed: int, extra: int, index: int) -> None:
    logits = row(200, seed)
    wide = torch.cat((logits, torch.full((extra,), -math.inf, dtype=logits.dtype)))
    for options in ({"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}, {}):
        s = sampler(seed=seed, **options)
        assert s.choose(logits, [0] * index) == s.choose(wide, [0] * index)


def test_purposes_and_tiers_draw_apart() -> None:
    s, support = sampler(seed=3), Support(torch.arange(500), torch.zeros(500))
    uses = [(p, t) for p in Purpose for t in range(3)]
    drawn = [[s.draw(support, i, p, t) for i in range(8)] for p, t in uses]
    assert len({tuple(d) for d in drawn}) == len(uses)
    numbers = {s.uniform(0, Purpose.ACCEPT, tier, sib) for tier in range(3) for sib in range(3)}
    assert len(numbers) == 9


def test_models_that_agree_choose_alike() -> None:
    """Coupled Gumbel noise agrees at least as often as (1 - TV) / (1 + TV)."""
    a, b = row(20, 5), row(20, 5) + 0.5 * row(20, 6)
    s = sampler(temperature=1.0)
    apart = float((s.probs(a, []) - s.probs(b, [])).abs().sum() / 2)
    mine, theirs = s.support(a, []), s.support(b, [])
    pairs = [[s.draw(x, i, Purpose.CHOICE) for x in (mine, theirs)] for i in range(600)]
    agreed = sum(x == y for x, y in pairs) / 600
    assert 0.1 < apart < 0.5
    assert agreed > (1 - apart) / (1 + apart) - 0.05
    alone = float((s.probs(a, []) * s.probs(b, [])).sum())
    assert agreed > alone + 0.1


def test_no_seed_draws_one() -> None:
    seeds = {Sampler(SamplingParams()).seed for _ in range(3)}
    assert len(seeds) == 3
    assert Sampler(SamplingParams(seed=9)).seed == 9


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the type checks of the tests, which would be first to complain."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def test_a_string_is_no_tuple_of_strings() -> None:
    with unchecked(), pytest.raises(OptionError, match=r"stop is 'end'\. Give a tuple"):
        SamplingParams(stop="end")  # pyright: ignore[reportArgumentType]


# -- options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temprature": 1.0}, "unknown option 'temprature'. Did you mean 'temperature'"),
        ({"temperature": -0.5}, "temperature is -0.5. Give a value of at least 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0. Give a value above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"min_p": 2}, "min_p is 2"),
        ({"typical_p": 0}, "typical_p is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0. Give a value of at least 1"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9"),
        ({"min_new_tokens": 10**5000}, "min_new_tokens is a whole number of more than"),
        ({"stop": ("a", "")}, "a stop string is empty"),
        ({"stop": 5}, "stop holds 5"),
        ({"temperature": True}, "temperature is True. Give a number"),
        ({"presence_penalty": math.inf - math.inf}, "presence_penalty is nan"),
        ({"presence_penalty": 10**31}, "presence_penalty is 10000000"),
        ({"frequency_penalty": -(10**5000)}, "frequency_penalty is a whole number of more"),
        ({"repetition_penalty": 10**5000}, "repetition_penalty is a whole number of more"),
        ({"top_k": 2.5}, "top_k is 2.5. Give a whole number"),
        ({"max_new_tokens": 3.5}, "max_new_tokens is 3.5. Give a whole number"),
        ({"logprobs": 1.5}, "logprobs is 1.5"),
        ({"logprobs": -1}, "logprobs is -1. Give a value of at least 0"),
        ({"seed": "a"}, "seed is 'a'. Give a whole number"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": True}, "seed is True"),
        ({"logit_bias": [1, 2]}, "logit_bias is [1, 2]. Give a mapping"),
        ({"logit_bias": {"a": 1}}, "logit_bias holds 'a'. Token ids are"),
        ({"logit_bias": {-1: 50}}, "logit_bias holds -1"),
        ({"logit_bias": {1: math.nan}}, "a bias in logit_bias is nan"),
        ({"logit_bias": {1: math.inf}}, "a bias in logit_bias is inf"),
        ({"banned_tokens": (-1,)}, "banned_tokens holds -1"),
        ({"banned_tokens": 1.5}, "banned_tokens holds 1.5"),
        ({"stop_token_ids": [2, True]}, "stop_token_ids holds True"),
        ({"forced_tokens": {-1: 2}}, "forced_tokens holds -1"),
        ({"forced_tokens": {0: -2}}, "forced_tokens holds -2"),
        ({"forced_tokens": 3}, "forced_tokens is 3. Give a mapping"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options: dict, words: str) -> None:
    with unchecked(), pytest.raises(OptionError) as caught:
        SamplingParams.of(**options)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_single_values_become_tuples() -> None:
    params = SamplingParams.of(stop="end", stop_token_ids=7, banned_tokens=[1, 2])
    assert (params.stop, params.stop_token_ids, params.banned_tokens) == (("end",), (7,), (1, 2))
    assert SamplingParams.of(stop=None).stop == ()


def test_numbers_of_numpy_and_a_bias_that_forbids_are_welcome() -> None:
    with unchecked():
        params = SamplingParams.of(
            top_k=np.int64(3), temperature=np.float32(0.5), logit_bias={np.int64(1): -math.inf}
        )
    assert sampler(logit_bias={1: -math.inf}).params.logit_bias == params.logit_bias
    assert sampler(logit_bias={1: -math.inf}).process(ZERO, [])[1] == -math.inf
    assert SamplingParams.of(seed=-(2**70)).seed == -(2**70)
