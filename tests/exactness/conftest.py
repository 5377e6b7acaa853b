"""Exactness tests run thousands of rounds: shape checks, on in most other tests, are off here."""

import pytest


@pytest.fixture(autouse=True)
def all_unchecked(unchecked: None) -> None:
    """The rounds that these tests run are checked in the tests of each part."""
