"""One server for all tests, on the model that ships."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

import outrider
from outrider.engine.generator import Generator
from outrider.engine.serving.messages import Ended
from outrider.server.answers.sample import Sample
from tests.server.setups import Running, Writes, running


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


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    """Lets the model, which is too small to call functions, write given pieces of text, one in
    each round."""
    real = Sample.add

    def install(*pieces: str) -> None:
        left = iter(pieces)

        def add(self: Sample, event: Any, stop: Any = None) -> str:
            real(self, event, stop)
            return "".join(left) if isinstance(event, Ended) else next(left, "")

        monkeypatch.setattr(Sample, "add", add)

    return install
