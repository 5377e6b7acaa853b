"""N-gram probabilities from a sorted corpus."""

import numpy as np
import pytest

from outrider.core.errors import OptionError
from outrider.memories.corpus import Corpus
from outrider.memories.interpolated import WEIGHTS, Interpolated

pytestmark = pytest.mark.method("superposed")

RNG = np.random.default_rng(3)
DOCUMENTS = [RNG.integers(0, 4, size=size).tolist() for size in (40, 7, 1, 90)]


def counted(text: list[int], token: int, weights: tuple[float, ...]) -> float:
    """Count by looking at every place."""
    total = 0.0
    for length, weight in enumerate(weights, start=1):
        context = text[-length:]
        places = [
            (document, i + length)
            for document in DOCUMENTS
            for i in range(len(document) - length + 1)
            if length <= len(text) and document[i : i + length] == context
        ]
        same = sum(document[i : i + 1] == [token] for document, i in places)
        total += weight * same / len(places) if places else 0.0
    return total


@pytest.mark.parametrize("weights", [WEIGHTS, (0.5,), (0.0, 0.3, 0.7)])
def test_probabilities_are_weighted_shares_of_counts(weights: tuple[float, ...]) -> None:
    model = Interpolated(Corpus.build(DOCUMENTS), weights)
    for document in (*DOCUMENTS, [3, 2, 1, 0, 3, 3, 3], []):
        for end in range(len(document) + 1):
            text = document[:end]
            expected = [counted(text, token, weights) for token in range(6)]
            assert model.probs(text, range(6)) == pytest.approx(expected)


def test_the_sum_of_the_weights_bounds_the_sum() -> None:
    model = Interpolated(Corpus.build(DOCUMENTS))
    for document in DOCUMENTS:
        assert model.probs(document, range(4)).sum() <= sum(WEIGHTS) + 1e-12


@pytest.mark.parametrize("weights", [(), (0.5, -0.1), (0.6, 0.6), (0.0,) * 40])
def test_weights_that_are_none(weights: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="weights of n-grams"):
        Interpolated(Corpus.build(DOCUMENTS), weights)
