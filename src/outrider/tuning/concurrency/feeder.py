"""Feeds an engine from a number of clients, each of which waits for its answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.serving.checked import checked
from outrider.engine.serving.engine import Engine
from outrider.engine.serving.messages import Ended, Event, Piece, Submission
from outrider.engine.serving.settings import ServingSettings
from outrider.policies.surface import CostSurface


@dataclass(slots=True)
class Feeder:
    """An engine whose steps run here, and what its requests took.

    Attributes:
        generator: the models.
        settings: of the engine.
        sampling: options of each answer.
        costs: see `Engine`.
        prompts: what clients send, one after the other.
        clients: number of clients, each with one request at a time.
        sent: requests sent by clients.
        first: seconds to the first token, by request.
        texts: tokens of each answer, by request and sample.
    """

    generator: Generator
    settings: ServingSettings
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    costs: CostSurface | None = None
    prompts: Sequence[Sequence[int]] = ()
    clients: int = 1
    sent: int = 0
    engine: Engine = field(init=False)
    first: dict[str, float] = field(default_factory=dict[str, float])
    texts: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    _sent: dict[str, float] = field(default_factory=dict[str, float])
    _open: int = 0
    _done: int = 0

    def __post_init__(self) -> None:
        self.engine = Engine(self.generator, self.settings, publish=self._hear, costs=self.costs)

    def _hear(self, events: Sequence[Event]) -> None:
        now = perf_counter()
        for event in events:
            name = f"{event.id}/{event.index}"
            if isinstance(event, Piece):
                if event.token_ids:
                    self.first.setdefault(event.id, now - self._sent[event.id])
            elif isinstance(event, Ended):
                assert event.result is not None
                self.texts[name] = event.result.token_ids
                self._open -= 1

    def submit(self, id: str, ids: Sequence[int], principal: str = "") -> None:
        """Send one request."""
        prompt = Prompt(token_ids=tuple(ids))
        params = checked(self.generator, prompt, dict(self.sampling))
        self._sent[id] = perf_counter()
        self._open += 1
        self.engine.submit(
            Submission(
                id=id, prompt=prompt, params=params, principal=principal, received=self._sent[id]
            )
        )

    def begin(self, at: int) -> None:
        """Begin with a later prompt."""
        self.sent = self._done = at

    def settle(self) -> None:
        """Run until no more requests than clients are left, as after clients have gone."""
        while self._open > self.clients:
            self.engine.step()

    def run(self, seconds: float, until: int) -> float:
        """Run steps for some seconds, or until the first `until` requests of clients have ended;
        every client sends its next prompt after each answer. Return the seconds taken."""
        begun = perf_counter()
        while (now := perf_counter()) - begun < seconds and not self.done(until):
            while self._open < self.clients:
                self.submit(str(self.sent), self.prompts[self.sent % len(self.prompts)])
                self.sent += 1
            self.engine.step()
        return now - begun

    def done(self, until: int) -> bool:
        """Whether the first `until` requests of clients have been sent, and have ended."""
        while self._done < until and f"{self._done}/0" in self.texts:
            self._done += 1
        return self._done >= until
