"""Best of n."""

import pytest

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
