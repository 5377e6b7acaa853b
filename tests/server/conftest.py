"""One server for all tests, on the model that ships."""

from collections.abc import Iterator

import openai
import pytest

import outrider
from outrider.engine.generator import Generator
from tests.server.setups import Running, running


@pytest.fixture(scope="session")
def generator() -> Generator:
    """It drafts in fixed lengths, so that drafts do not depend on the speed of the machine."""
    return outrider.load("tiny", threads=1, dtype="int8", drafter="lookup", policy="fixed")


@pytest.fixture(scope="session")
def served(generator: Generator) -> Iterator[Running]:
    with running(generator) as found:
        yield found


@pytest.fixture(scope="session")
def client(served: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as found:
        yield found
