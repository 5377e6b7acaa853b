import pytest

from outrider.captioning.metrics import ClipScorer
from tests.captioning import tiny_clip


@pytest.fixture(scope="module")
def tiny() -> ClipScorer:
    return tiny_clip.scorer()


@pytest.fixture
def images() -> list:
    """One for each of `tiny_clip.CAPTIONS`."""
    return [tiny_clip.noisy(i) for i in range(len(tiny_clip.CAPTIONS))]
