"""Serves the same requests with plain decoding and with one arm, in turn, on the engine of the
server.

Each has an engine of its own, whose memories begin empty: a drafter that had written a text before
would copy it. Slices of half a second alternate, so that a busy moment of the machine meets all.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from outrider.bench.models import OpenModels
from outrider.core.errors import StrategyError
from outrider.core.types import SAME_TEXT
from outrider.engine.serving.settings import ServingSettings
from outrider.models.costs import measure_surface
from outrider.policies.schedule import Cap, Schedule
from outrider.policies.surface import CostSurface
from outrider.tuning.concurrency.feeder import Feeder
from outrider.tuning.concurrency.levels import Part, named
from outrider.tuning.intervals import log_ratio
from outrider.tuning.space import Arm

SLICE = 0.5
"""Seconds of one engine before the next one has its turn."""
_LEAST = 8
"""Requests of a block, at least; else two for each that runs at once."""
_PLAIN = "none"

Prompts = Sequence[tuple[int, ...]]


@dataclass(slots=True)
class _Pass:
    """One pass over all prompts of a part, with fresh engines."""

    key: tuple[Any, ...]
    feeders: dict[str, Feeder]


@dataclass(slots=True, kw_only=True)
class Blocks:
    """Serves blocks of requests (`Serve`).

    Attributes:
        opened: the models.
        plain: undrafted decoding.
        arm: the arm.
        prompts: the prompts of each part.
        sampling: options of every text.
        texts: texts that were compared.
        differ: those of them in which the arm wrote something else.
    """

    opened: OpenModels
    plain: Arm
    arm: Arm
    prompts: Mapping[Part, Prompts]
    sampling: Mapping[str, Any]
    texts: int = 0
    differ: int = 0
    _costs: CostSurface | None = None
    _pass: _Pass | None = field(default=None)

    def __call__(
        self, requests: int, caps: Sequence[Cap], part: Part, number: int
    ) -> Mapping[Cap, float]:
        """Serve one block."""
        prompts = self.prompts[part]
        size = min(max(2 * requests, _LEAST), len(prompts))
        turn, place = divmod(number, len(prompts) // size)
        key = (requests, tuple(caps), part, turn)
        if self._pass is None or self._pass.key != key:
            self._pass = _Pass(key, self._feeders(requests, caps, prompts, turn))
        feeders = self._pass.feeders
        names = list(feeders)
        first = number % len(names)  # the one whose turn comes first rotates
        order = names[first:] + names[:first]
        seconds = block_seconds(feeders, order, (place + 1) * size)
        self._compare(feeders, range(place * size, (place + 1) * size))
        return {cap: log_ratio(seconds[_PLAIN], seconds[named(cap)]) for cap in caps}

    def _feeders(
        self, requests: int, caps: Sequence[Cap], prompts: Prompts, turn: int
    ) -> dict[str, Feeder]:
        order = random.Random(turn).sample(prompts, len(prompts))
        if self._costs is None:
            self._costs = measure_surface(self.opened.models["target"])
        settings = ServingSettings(max_num_seqs=requests)
        arms = {_PLAIN: (self.plain, None), **{named(cap): (self.arm, cap) for cap in caps}}
        found: dict[str, Feeder] = {}
        for name, (arm, cap) in arms.items():
            generator = self.opened.build(arm.named)
            generator.limit(Schedule({requests: cap}))
            found[name] = Feeder(
                generator,
                settings,
                sampling=self.sampling,
                costs=self._costs,
                prompts=order,
                clients=requests,
            )
        return found

    def _compare(self, feeders: Mapping[str, Feeder], requests: range) -> None:
        """Raise `StrategyError` for a text that is not that of plain decoding and must be."""
        plain = feeders[_PLAIN].texts
        for name, feeder in feeders.items():
            if name == _PLAIN:
                continue
            differ = sum(feeder.texts[f"{i}/0"] != plain[f"{i}/0"] for i in requests)
            self.texts += len(requests)
            self.differ += differ
            strategy = feeder.generator.strategy
            promised = strategy.exactness in SAME_TEXT and strategy.target.info.batch_invariant
            if differ and promised:
                raise StrategyError(
                    f"{self.arm.name} wrote {differ} of {len(requests)} texts that are not those "
                    f"of undrafted decoding, with {feeder.clients} requests at once",
                    hint="Please report this with the model and the command",
                )


def block_seconds(
    feeders: Mapping[str, Feeder], names: Sequence[str], until: int, seconds: float = SLICE
) -> dict[str, float]:
    """Serve all requests before `until` with every engine, in slices; return the seconds of each.

    Args:
        feeders: the engines with their clients, by name.
        names: the order in which they have their turns.
        until: the number of requests that must have ended.
        seconds: of a slice.
    """
    spent = dict.fromkeys(names, 0.0)
    while not all(feeder.done(until) for feeder in feeders.values()):
        for name in names:
            spent[name] += feeders[name].run(seconds, until)
    return spent
