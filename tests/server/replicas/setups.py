"""Replicas in this process, whose messages are pickled as between processes."""

import pickle
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from time import perf_counter
from typing import Any

from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.serving.checked import checked
from outrider.engine.serving.engine import Engine
from outrider.engine.serving.messages import Ended, Event, Piece, Submission
from outrider.engine.serving.settings import ServingSettings
from outrider.server.replicas.host import EngineHost
from outrider.server.replicas.remote import RemoteEngine, ReplicaSettings
from outrider.server.replicas.replica import ReplicaLostError
from outrider.server.replicas.states import Report
from tests.engine.serving.setups import COSTS, until

QUICK = ReplicaSettings(every=0.02, wait=5.0)


class Local:
    """A replica in this process, which a test kills and restarts."""

    def __init__(self, name: str, generator: Generator, **settings: Any) -> None:
        self.name = name
        self.killed = False
        self.served: list[str] = []
        self._make: Callable[[], Engine]
        self.engine: Engine

        def make(client: Any) -> Engine:
            given = ServingSettings(**settings)
            self.engine = Engine(generator, given, publish=client.publish, costs=COSTS)
            return self.engine

        codec = generator.tokenizer
        self._hosted = lambda: EngineHost(
            make,
            None if codec is None else codec.decode,
            lambda constraint: generator.grammars.of(constraint),
        )
        self.host = self._hosted()
        self.cache_size = self.engine.state.cache_size

    async def stream(self, submission: Submission) -> AsyncGenerator[Sequence[Event], None]:
        self._check()
        self.served.append(submission.id)
        async with aclosing(self.host.stream(passed(submission), perf_counter())) as stream:
            async for events in stream:
                self._check()
                yield passed(events)

    async def cancel(self, id: str) -> None:
        self._check()
        await self.host.cancel(id)

    async def report(self) -> Report:
        self._check()
        return passed(await self.host.report())

    def kill(self) -> None:
        """Answer nothing any more, like a process that was killed."""
        self.killed = True

    def restart(self) -> None:
        """Replace the engine by a new one."""
        self.host.stop()
        self.host, self.killed = self._hosted(), False

    def _check(self) -> None:
        if self.killed:
            raise ReplicaLostError("it was killed")


def passed(message: Any) -> Any:
    """Return a copy, as another process receives it."""
    return pickle.loads(pickle.dumps(message))


class Front:
    """A `RemoteEngine`, and what it published."""

    def __init__(self, replicas: Sequence[Local], settings: ReplicaSettings = QUICK) -> None:
        self.replicas = {one.name: one for one in replicas}
        self.events: list[Event] = []
        self.hooks: list[Callable[[Event], None]] = []
        self._lock = threading.Lock()
        self._count = 0
        self.generator = next(iter(replicas)).engine.generator
        self.engine = RemoteEngine(replicas, settings, publish=self._publish)

    def _publish(self, events: Sequence[Event]) -> None:
        for event in events:
            with self._lock:
                self.events.append(event)
            for hook in list(self.hooks):
                hook(event)

    def submit(self, ids: Sequence[int], *, n: int = 1, **options: Any) -> str:
        """Send a request; options of `Submission` begin with an underscore."""
        self._count += 1
        own = {name[1:]: options.pop(name) for name in list(options) if name.startswith("_")}
        prompt = Prompt(token_ids=tuple(ids))
        params = checked(self.generator, prompt, options)
        id, now = f"r{self._count}", perf_counter()
        self.engine.submit(
            Submission(id=id, prompt=prompt, params=params, n=n, received=now, **own)
        )
        return id

    def place(self, id: str) -> Local:
        """Return the replica that runs a request."""
        table = self.engine._requests
        assert until(lambda: id in table and table[id].place is not None)
        place = table[id].place
        assert place is not None
        return self.replicas[place.name]

    def ended(self, id: str, index: int = 0, seconds: float = 120.0) -> Ended:
        """Wait for the end of a sample; there is one."""
        assert until(lambda: bool(self._ends(id, index)), seconds), "the request does not end"
        [found] = self._ends(id, index)
        return found

    def ids(self, id: str, index: int = 0) -> tuple[int, ...]:
        """Return the tokens that were delivered."""
        return tuple(token for piece in self.pieces(id, index) for token in piece.token_ids)

    def text(self, id: str, index: int = 0) -> str:
        """Return the text that was delivered."""
        return "".join(piece.text for piece in self.pieces(id, index))

    def pieces(self, id: str, index: int = 0) -> list[Piece]:
        with self._lock:
            every = list(self.events)
        return [e for e in every if isinstance(e, Piece) and (e.id, e.index) == (id, index)]

    def _ends(self, id: str, index: int) -> list[Ended]:
        with self._lock:
            every = list(self.events)
        return [e for e in every if isinstance(e, Ended) and (e.id, e.index) == (id, index)]


@contextmanager
def front(
    generators: Sequence[Generator], settings: ReplicaSettings = QUICK, **engine: Any
) -> Iterator[Front]:
    """Context manager: a front with one replica for each generator, which are up."""
    replicas = [Local(f"engine-{at}", one, **engine) for at, one in enumerate(generators)]
    found = Front(replicas, settings)
    found.engine.start()
    try:
        assert until(lambda: found.engine.state.cache_size > 0)
        yield found
    finally:
        found.engine.stop()
        for one in replicas:
            one.host.stop()
