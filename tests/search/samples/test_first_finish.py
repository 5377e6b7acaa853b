"""First Finish Search."""

from typing import Any

import pytest

from outrider.core.errors import OptionError
from outrider.decoding import Generation
from outrider.drafters import NoDrafter
from outrider.protocols import LanguageModel
from outrider.search import Limits
from outrider.search.samples.first_finish import FirstFinish
from outrider.search.samples.majority import Majority
from outrider.testing.rigs import finish, generation, stage, tabular_family
from outrider.testing.rigs import undrafted as plain
from outrider.testing.searches import END, searched

pytestmark = pytest.mark.method("first-finish")

MODEL = tabular_family(seed=1).target
PROMPT = (1, 2, 3, 1, 2, 3)
WARM: dict[str, Any] = {"temperature": 1.3, "top_p": 1.0, "logprobs": 0, "max_new_tokens": 60}


def rerun(samples: int, seed: int = 5, model: LanguageModel = MODEL) -> list[Generation]:
    """All samples to their ends, by the ordinary loop."""
    found = [
        generation(PROMPT, end_ids=(END,), sample=i, **WARM, seed=seed) for i in range(samples)
    ]
    return finish(plain(stage(model, NoDrafter())), found)


def mean(one: Generation) -> float:
    return sum(token.logprob for token in one.logprobs) / len(one.output)


def test_one_sample_is_plain_sampling() -> None:
    found = searched(FirstFinish(samples=1), MODEL, PROMPT, **WARM)
    [alone] = rerun(1)
    assert list(found.best.token_ids) == alone.output


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_result_is_the_shortest_sample(seed: int, drafted: bool) -> None:
    """A genuine sample, whose length is the minimum over all samples run to the end; of equally
    short ones it has the largest mean log-probability."""
    found = searched(FirstFinish(samples=5), MODEL, PROMPT, drafted=drafted, **WARM, seed=seed)
    rows = [one for one in rerun(5, seed) if one.output[-1] == END]
    best = min(rows, key=lambda one: (len(one.output), -mean(one)))
    assert list(found.best.token_ids) == best.output and found.best.finish_reason == "stop"
    assert len(found.candidates) == 1


@pytest.mark.parametrize(("family", "seed"), [(2, 5), (3, 5), (4, 1)])
def test_of_equally_short_texts_the_more_probable_one_is_first(family: int, seed: int) -> None:
    model = tabular_family(seed=family).target
    found = searched(FirstFinish(samples=5), model, PROMPT, **WARM, seed=seed)
    rows = [one for one in rerun(5, seed, model) if one.output[-1] == END]
    least = min(len(one.output) for one in rows)
    ties = [one for one in rows if len(one.output) == least]
    assert max(ties, key=mean) is not ties[0]
    assert list(found.best.token_ids) == max(ties, key=mean).output


def test_the_steps_are_the_length_and_the_tokens_are_all_samples_of_it() -> None:
    found = searched(FirstFinish(samples=4), MODEL, PROMPT, **WARM)
    length = len(found.best.token_ids)
    assert found.forwards == length and found.tokens == 4 * length


@pytest.mark.parametrize("seed", range(6))
def test_the_first_few_vote_with_and_without_drafts(seed: int) -> None:
    search = FirstFinish(samples=6, finish=3, answer=lambda text: text[-1:])
    found = searched(search, MODEL, PROMPT, **WARM, seed=seed)
    drafted = searched(search, MODEL, PROMPT, drafted=True, **WARM, seed=seed)
    assert [one.to_dict() for one in drafted.candidates] == [
        one.to_dict() for one in found.candidates
    ]
    rows = [one for one in rerun(6, seed) if one.output[-1] == END]
    first = sorted(rows, key=lambda one: (len(one.output), -mean(one)))[:3]
    assert {one.token_ids for one in found.candidates} == {tuple(one.output) for one in first}
    assert found.forwards == max(len(one.output) for one in first)


@pytest.mark.parametrize("seed", range(4))
def test_where_all_finish_it_is_self_consistency(seed: int) -> None:
    given = {"answer": lambda text: text[-1:]}
    first = searched(FirstFinish(samples=5, finish=5, **given), MODEL, PROMPT, **WARM, seed=seed)
    vote = searched(Majority(samples=5, **given), MODEL, PROMPT, **WARM, seed=seed)
    assert [one.to_dict() for one in first.candidates] == [one.to_dict() for one in vote.candidates]


def test_without_an_end_the_best_by_mean_log_probability_is_marked() -> None:
    found = searched(FirstFinish(), MODEL, PROMPT, ignore_eos=True, temperature=1.0)
    means = [one.logprob / len(one.token_ids) for one in found.candidates if one.logprob]
    assert len(means) == 4 and means == sorted(means, reverse=True)
    assert [one.score for one in found.candidates] == pytest.approx(means)
    assert {one.finish_reason for one in found.candidates} == {"length"}


def test_a_limit_keeps_the_unfinished_texts() -> None:
    limits = Limits(tokens=9)
    found = searched(
        FirstFinish(samples=3), MODEL, PROMPT, ignore_eos=True, temperature=1.0, limits=limits
    )
    assert "limit of 9" in found.stopped
    assert [len(one.token_ids) for one in found.candidates] == [3, 3, 3]
    assert {one.finish_reason for one in found.candidates} == {"unfinished"}
    scores = [one.score for one in found.candidates]
    assert scores == sorted(scores, reverse=True) and scores[0] < 0


@pytest.mark.parametrize("given", [{"samples": 0}, {"finish": 0}, {"finish": 5}, {"answer": "no"}])
def test_options(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        FirstFinish(**given)
