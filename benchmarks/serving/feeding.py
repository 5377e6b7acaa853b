"""Feeds an engine from a number of clients, each of which waits for its answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter

from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.serving.checked import checked
from outrider.engine.serving.engine import Engine
from outrider.engine.serving.messages import Ended, Event, Piece, Submission
from outrider.engine.serving.settings import ServingSettings


@dataclass(slots=True)
class Feeder:
    """An engine whose steps run here, and what its requests took.

    Attributes:
        generator: the models.
        settings: of the engine.
        tokens: tokens of each answer, at most.
        temperature: of all requests.
    """

    generator: Generator
    settings: ServingSettings
    tokens: int = 64
    temperature: float = 0.0
    engine: Engine = field(init=False)
    first: dict[str, float] = field(default_factory=dict[str, float])
    texts: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    _sent: dict[str, float] = field(default_factory=dict[str, float])
    _ended: int = 0
    _written: int = 0

    def __post_init__(self) -> None:
        self.engine = Engine(self.generator, self.settings, publish=self._hear)

    def _hear(self, events: Sequence[Event]) -> None:
        now = perf_counter()
        for event in events:
            name = f"{event.id}/{event.index}"
            if isinstance(event, Piece):
                self._written += len(event.token_ids)
                if event.token_ids:
                    self.first.setdefault(event.id, now - self._sent[event.id])
            elif isinstance(event, Ended):
                assert event.result is not None
                self.texts[name] = event.result.token_ids
                self._ended += 1

    def submit(self, id: str, ids: Sequence[int], principal: str = "") -> None:
        """Send one request."""
        prompt = Prompt(token_ids=tuple(ids))
        params = checked(
            self.generator,
            prompt,
            {"max_new_tokens": self.tokens, "temperature": self.temperature, "seed": 0},
        )
        self._sent[id] = perf_counter()
        self.engine.submit(
            Submission(
                id=id, prompt=prompt, params=params, principal=principal, received=self._sent[id]
            )
        )

    def closed(self, prompts: Iterator[tuple[str, Sequence[int]]], clients: int) -> float:
        """Run all requests from `clients` clients; return tokens per second."""
        begun, before = perf_counter(), self._written
        for _, one in zip(range(clients), prompts, strict=False):
            self.submit(*one)
        self._ended = 0
        while self.engine.busy:
            self.engine.step()
            for one in islice(prompts, self._ended):
                self.submit(*one)
            self._ended = 0
        return (self._written - before) / (perf_counter() - begun)
