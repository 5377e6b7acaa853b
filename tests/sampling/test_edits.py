"""The quick way to edit scores gives the numbers of `Sampler.process`, and the same choice."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider import kernels
from outrider.core.errors import LogitsError
from outrider.kernels.forking import one_torch_thread
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.edits import edited
from outrider.sampling.noise import Purpose

VOCAB = 24
ids = st.integers(0, VOCAB + 3)
settings = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.floats(0.5, 2.0),
        "presence_penalty": st.floats(-2.0, 2.0),
        "frequency_penalty": st.floats(-2.0, 2.0),
        "logit_bias": st.dictionaries(ids, st.floats(-5.0, 5.0), max_size=3),
        "banned_tokens": st.lists(ids, max_size=3).map(tuple),
        "min_new_tokens": st.integers(0, 6),
        "forced_tokens": st.dictionaries(st.integers(0, 6), ids, max_size=1),
        "temperature": st.sampled_from((0.0, 0.8)),
        "top_p": st.sampled_from((1.0, 0.9)),
    },
)


@given(
    given_settings=settings,
    prompt=st.lists(ids, max_size=8),
    output=st.lists(ids, max_size=8),
    seed=st.integers(0, 1000),
)
def test_edited_scores_equal_those_of_process_to_the_bit(
    given_settings: dict, prompt: list[int], output: list[int], seed: int
) -> None:
    params = SamplingParams(seed=seed, **given_settings)
    sampler = Sampler(params, prompt_ids=prompt, end_ids=(1, VOCAB + 1))
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 4
    before = logits.clone()
    try:
        expected = sampler.process(logits, output)
    except LogitsError as error:
        if kernels.available():
            with pytest.raises(LogitsError, match=error.problem):
                sampler.choose_edited(logits, output)
        return
    different = np.array(sorted(set(prompt)), dtype=np.int64)
    ends = np.array(sorted(sampler.end_ids), dtype=np.int64)
    found = edited(logits.numpy(), params, different, output, ends)
    assert np.array_equal(found.view(np.int32), expected.numpy().view(np.int32))
    if kernels.available():
        support = sampler.support(logits, output)
        wanted = sampler.draw(support, len(output), Purpose.CHOICE)
        assert sampler.choose_edited(logits, output) == wanted
    assert torch.equal(logits, before)


@pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())
def test_a_forced_token_may_be_a_banned_one() -> None:
    sampler = Sampler(SamplingParams(forced_tokens={0: 3}, banned_tokens=(3, 4)))
    assert sampler.choose_edited(torch.zeros(VOCAB), []) == 3
    assert sampler.choose_edited(torch.zeros(VOCAB), [3]) not in (3, 4)


@pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    logits = torch.zeros(VOCAB)
    logits[3] = bad
    sampler = Sampler(SamplingParams(repetition_penalty=1.1, banned_tokens=(3,)))
    with pytest.raises(LogitsError, match="NaN"):
        sampler.choose_edited(logits, [])


@pytest.mark.parametrize(
    "other",
    [
        {"typical_p": 0.5, "temperature": 1.0},
        {"logits_processors": (lambda ids, scores: scores,)},
    ],
)
def test_other_settings_are_left_to_process(other: dict) -> None:
    sampler = Sampler(SamplingParams(repetition_penalty=1.1, **other))
    assert sampler.choose_edited(torch.zeros(VOCAB), []) is None
    plain = Sampler(SamplingParams(repetition_penalty=1.1))
    assert plain.choose_edited(torch.zeros(VOCAB, dtype=torch.float64), []) is None


def test_one_torch_thread_is_undone_after_an_error() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(LogitsError), one_torch_thread():
            assert torch.get_num_threads() == 1
            raise LogitsError("any")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
