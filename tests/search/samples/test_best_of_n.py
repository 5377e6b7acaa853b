"""Best of n."""

import pytest

from outrider.search import Limits
from outrider.search.samples.best_of_n import BestOfN
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import Counted, searched

pytestmark = pytest.mark.method("best-of-n")

MODEL = tabular_family(seed=1).target
PROMPT = (1, 2, 3)


def test_the_scorer_decides() -> None:
    found = searched(BestOfN(samples=6), MODEL, PROMPT, temperature=1.5, scorer=Counted())
    scores = [one.text.count("b") / (len(one.text) + 1) for one in found.candidates]
    assert [one.score for one in found.candidates] == pytest.approx(scores)
    assert found.scorer_calls == 6 and scores[0] == max(scores) > min(scores)


def test_without_a_scorer_the_most_probable_text_per_token_is_first() -> None:
    found = searched(BestOfN(samples=6), MODEL, PROMPT, temperature=1.5)
    for one in found.candidates:
        assert one.logprob is not None
        assert one.score == pytest.approx(one.logprob / len(one.token_ids))


def test_the_texts_are_the_samples_of_generate() -> None:
    """More samples add texts and change none."""
    few = searched(BestOfN(samples=2), MODEL, PROMPT, temperature=1.5)
    more = searched(BestOfN(samples=5), MODEL, PROMPT, temperature=1.5)
    assert {one.token_ids for one in few.candidates} <= {one.token_ids for one in more.candidates}


@pytest.mark.parametrize("scorer", [None, Counted()])
def test_texts_so_far_are_the_result_of_a_search_that_is_stopped(scorer: Counted | None) -> None:
    found = searched(
        BestOfN(samples=3),
        MODEL,
        PROMPT,
        scorer=scorer,
        limits=Limits(tokens=9),
        ignore_eos=True,
    )
    assert "limit of 9" in found.stopped and found.scorer_calls == 0
    whole = searched(BestOfN(samples=3), MODEL, PROMPT, ignore_eos=True)
    texts = {one.about["sample"]: one.token_ids for one in whole.candidates}
    for one in found.candidates:
        assert one.finish_reason == "unfinished" and len(one.token_ids) == 3
        assert texts[one.about["sample"]][:3] == one.token_ids
    scores = [one.score for one in found.candidates]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
