"""Writes the texts of a tuning: each once, kept in the journal, compared with plain decoding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from outrider.bench.identity import compare
from outrider.bench.journal import Journal
from outrider.bench.measure import Place, Run, StrategySystem
from outrider.bench.models import OpenModels
from outrider.bench.run import exactness_of
from outrider.core.errors import StrategyError
from outrider.core.types import SAME_TEXT, Exactness
from outrider.tuning.race import Write
from outrider.tuning.space import Arm

RECORDED = -1
"""Number of the repeat whose texts are recorded and not raced."""
_WARM_TOKENS = 32
_SHORTEST = 1e-9
"""Seconds per token that a clock without resolution may return."""

System = Callable[[Arm], StrategySystem]


@dataclass(slots=True, kw_only=True)
class Texts:
    """Writes texts with any arm.

    Attributes:
        opened: the models.
        sampling: options of every text.
        journal: finished texts; those that it holds are not written again.
        plain: undrafted decoding.
        arms: the arms by name, plain decoding among them.
        told: called with the name of the arm before each text.
    """

    opened: OpenModels
    sampling: Mapping[str, Any]
    journal: Journal
    plain: Arm
    arms: dict[str, Arm]
    told: Callable[[str], None] = lambda name: None
    _systems: dict[str, StrategySystem] = field(default_factory=dict[str, StrategySystem])
    _promises: dict[str, Exactness] = field(default_factory=dict[str, Exactness])

    def writer(self, places: Sequence[Place]) -> Write:
        """Return the function with which a race writes these prompts."""

        def write(arm: str, prompt: int, repeat: int) -> float:
            run = self.write(arm, replace(places[prompt], repeat=repeat))
            return max(run.decode_seconds_per_token or 0.0, _SHORTEST)

        return write

    def write(self, arm: str, place: Place) -> Run:
        """Return the text of one arm for one prompt; it is written unless the journal has it.

        Raises:
            StrategyError: an arm that promises the text of plain decoding wrote another one.
        """
        known = self.journal.runs.get((arm, place.task, place.repeat))
        if known is None:
            self.told(arm)
            known = self._system(arm, place).write(place)
            self.journal.add(known)
        self._check(known, place)
        return known

    def _system(self, name: str, place: Place) -> StrategySystem:
        """Return the system of an arm. Before its first text it writes another one, untimed."""
        if name not in self._systems:
            arm = self.arms[name]
            system = StrategySystem(name, partial(self.opened.build, arm.named), self.sampling)
            backwards = place.token_ids[::-1][:_WARM_TOKENS]
            system.write(replace(place, token_ids=backwards))
            self._promises[name] = exactness_of(system)
            self._systems[name] = system
        return self._systems[name]

    def _check(self, run: Run, place: Place) -> None:
        """Raise `StrategyError` for a text that differs from that of plain decoding and must not.

        A near tie of the target's scores is no error where rows of a forward are rounded apart.
        """
        base = self.journal.runs.get((self.plain.name, run.task, run.repeat))
        same = self._promises.get(run.system) in SAME_TEXT
        if base is None or not same or list(base.token_ids) == list(run.token_ids):
            return
        found = compare([base, run], self._promises, self.opened, [place], self.sampling)
        serious = [mismatch for mismatch in found if not mismatch.near_tie]
        if serious:
            raise StrategyError(
                f"{serious[0]}, so nothing about its speed can be compared",
                hint="Please report this with the model and the command",
            )
