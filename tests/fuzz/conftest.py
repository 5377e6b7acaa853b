"""One sandbox for all tests of a process."""

from collections.abc import Iterator

import pytest

from tests.fuzz.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A sandbox with the limits of the corpus: 3 GB and 20 seconds of CPU time for each case."""
    with Sandbox() as made:
        yield made
