"""Exactness tests run thousands of rounds: shape checks, on in all other tests, are off here."""

from collections.abc import Iterator

import pytest
from jaxtyping import config


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Without shape checks a round takes a quarter of the time."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
