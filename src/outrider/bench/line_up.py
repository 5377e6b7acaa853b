"""The rivals of a run: opened next to Outrider's models, and dropped if they fail."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature
from time import sleep
from typing import Any

from outrider.bench.measure import Place, RivalSystem, Run, System
from outrider.bench.models import OpenModels
from outrider.bench.rivals.rival import Rival
from outrider.bench.verify import used_threads
from outrider.core.errors import OutriderError

Progress = Callable[[int, int, str], None]
"""Called with `(done, total, name of the current step)`."""

_SETTLE_SECONDS = 0.05
"""Pause between systems with their own thread pools: workers spin for a moment after their work."""


@dataclass(slots=True)
class LineUp:
    """Installed rivals, and the reasons why others are missing.

    Attributes:
        rivals: rivals by name.
        opened: Outrider's models; rivals run the same checkpoints.
        sampling: sampling options of the run.
        missing: name -> why it is not measured; filled during the run.
    """

    rivals: Mapping[str, Rival]
    opened: OpenModels
    sampling: Mapping[str, Any]
    missing: dict[str, str]

    def open(self, stack: ExitStack, progress: Progress) -> list[RivalSystem]:
        """Open all rivals that can be opened; `stack` closes them."""
        found: list[RivalSystem] = []
        for name, rival in self.rivals.items():
            progress(0, 1, f"opening {name}")
            try:
                found.append(RivalSystem(name, self._opened(rival, stack), self.sampling))
            except OutriderError as error:
                self.missing[name] = str(error)
        return found

    def write(self, system: System, place: Place) -> Run | None:
        """Write one text; None from a rival that has failed. Errors of Outrider are raised."""
        if not isinstance(system, RivalSystem):
            self._settle()
            return system.write(place)
        if system.name in self.missing:
            return None
        self._settle()
        try:
            return system.write(place)
        except Exception as error:  # an exception of foreign code must not end the run
            what = " ".join(str(error).split())[:160]
            self.missing[system.name] = f"it failed on {place.task}: {type(error).__name__}: {what}"
            return None

    def _settle(self) -> None:
        if self.rivals:
            sleep(_SETTLE_SECONDS)

    def _opened(self, rival: Rival, stack: ExitStack) -> Any:
        tiers = self.opened.tiers
        draft = tiers.get("draft")
        if rival.method == "draft" and draft is None:
            raise OutriderError("it needs a draft model")
        place = self.opened.models["target"].info.device
        options: dict[str, Any] = {
            "threads": used_threads(self.opened.settings.threads),
            "dtype": self.opened.dtype,
        }
        if "device" in signature(rival.open).parameters:
            options["device"] = str(place)
        elif place.type != "cpu":
            raise OutriderError(f"it runs on the CPU, not on {place}")
        return stack.enter_context(
            rival.open(tiers["target"].folder, draft.folder if draft else None, **options)
        )
