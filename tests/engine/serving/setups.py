"""An engine whose steps a test runs, and what it published."""

from collections.abc import Sequence
from typing import Any

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
