"""An engine whose steps a test runs, or holds, and what it published."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.result import Result
from outrider.engine.serving.checked import checked
from outrider.engine.serving.engine import Engine
from outrider.engine.serving.messages import Ended, Event, Piece, Submission
from outrider.engine.serving.settings import ServingSettings
from outrider.policies.surface import CostSurface

COSTS = CostSurface(((1, 1e-3), (8, 2e-3), (64, 8e-3)), per_sequence=1e-4)


class Desk:
    """Runs an engine without a thread, and sorts its events by sample."""

    def __init__(self, generator: Generator, **settings: Any) -> None:
        self.events: list[Event] = []
        self.generator = generator
        self.engine = Engine(
            generator, ServingSettings(**settings), publish=self.events.extend, costs=COSTS
        )

    def submit(self, id: str, ids: Sequence[int], *, n: int = 1, **options: Any) -> Submission:
        """Put a request into the queue; options of `Submission` begin with an underscore."""
        prompt = Prompt(token_ids=tuple(ids))
        own = {name[1:]: options.pop(name) for name in list(options) if name.startswith("_")}
        params = checked(self.generator, prompt, options)
        submission = Submission(id=id, prompt=prompt, params=params, n=n, **own)
        self.engine.submit(submission)
        return submission

    def run(self, most: int = 100_000) -> None:
        """Run steps until nothing is left to do."""
        for _ in range(most):
            if not self.engine.busy:
                return
            self.engine.step()
        raise AssertionError("the engine does not come to an end")

    def ended(self, id: str, index: int = 0) -> Ended:
        """Return the end of a sample."""
        [found] = [
            e for e in self.events if isinstance(e, Ended) and (e.id, e.index) == (id, index)
        ]
        return found

    def pieces(self, id: str, index: int = 0) -> list[Piece]:
        """Return the pieces of a sample."""
        return [e for e in self.events if isinstance(e, Piece) and (e.id, e.index) == (id, index)]

    def result(self, id: str, index: int = 0) -> Result:
        """Return the result of a sample."""
        found = self.ended(id, index).result
        assert found is not None
        return found


class Held:
    """An engine that, after some tokens, makes a step only when it has something to receive.

    So requests run for as long as a test needs them, on a machine of any speed.
    """

    def __init__(self, engine: Engine, tokens: int) -> None:
        self._engine, self._most = engine, written(engine) + tokens
        self._step, self._expire = engine.step, engine._expire
        self._later, self._go, self._ended = 0.0, False, False

    def step(self) -> None:
        until(self._may_step, 120)
        self._go = False
        self._step()

    def expire(self, now: float) -> None:
        self._expire(now + self._later)

    def later(self, seconds: float) -> None:
        """Let time pass for the limits of requests, and make a step."""
        self._later += seconds
        self._go = True

    def end(self) -> None:
        self._ended = True

    def _may_step(self) -> bool:
        engine = self._engine
        told = not engine._inbox.empty() or engine._stopping is not None
        return self._go or self._ended or told or written(engine) < self._most


@contextmanager
def held(engine: Engine, tokens: int) -> Iterator[Held]:
    """Context manager: the engine holds after so many further tokens (`Held`)."""
    found = Held(engine, tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "step", found.step)
        patch.setattr(engine, "_expire", found.expire)
        try:
            yield found
        finally:
            found.end()


def written(engine: Engine) -> int:
    """Return the number of tokens that an engine has written."""
    return engine.state.counters.get("generation_tokens", 0)


def until(met: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait until a condition is met; return whether it was."""
    end = time.monotonic() + seconds
    while not met():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
