"""Fixtures of all tests of models."""

import pytest

from tests.models.setups.pairs import Pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Checkpoints and references that are made once for all tests of a file."""
    return Pairs(tmp_path_factory.mktemp("pairs"))
