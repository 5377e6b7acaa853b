"""What is measured before anything is compared: the time of forwards, and how busy the machine is.

The lower quartile of many interleaved runs, not the median: on a shared machine medians of a few
runs give a wider forward less time than a narrower one, and a replay that sums such times ranks
nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from outrider.core.values import JsonValue
from outrider.kernels.library import cores
from outrider.kernels.machine import load_average
from outrider.models.costs import forward_seconds
from outrider.policies.surface import CostSurface
from outrider.protocols import LanguageModel
from outrider.strategy.auto import round_overhead

WIDTHS = (1, 2, 3, 4, 5, 7, 9, 13, 17, 33, 65)
"""Rows of forwards that are timed: a draft of k tokens takes k + 1."""
REPEATS = 60
BUSY = 0.15
"""Share of a time by which it is moved to make the curve ascend, from which a machine is busy."""

Measure = Callable[[LanguageModel, Sequence[int], float], Mapping[int, float]]
"""`(model, widths, seconds that it may take) -> seconds by width`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The costs of the target.

    Attributes:
        seconds: seconds of a forward by its rows, as measured.
        overhead: seconds of a round besides the forward and the choice of the token.
        load: processes that wanted to run, on average, before the measurement; None: unknown.
        cores: processors that this process may use.
    """

    seconds: Mapping[int, float]
    overhead: float
    load: float | None
    cores: int

    @property
    def surface(self) -> CostSurface:
        """The times with those averaged that would make the curve descend."""
        return CostSurface.of(self.seconds)

    @property
    def pooled(self) -> float:
        """The largest share by which a time is moved to make the curve ascend."""
        fitted = dict(self.surface.points)
        return max(abs(fitted[n] - own) / own for n, own in self.seconds.items())

    @property
    def busy(self) -> bool:
        """Whether other programs disturb the measurement."""
        return self.pooled > BUSY

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data; `from_dict` reads it."""
        return {
            "ms": {str(n): 1000 * s for n, s in self.seconds.items()},
            "overhead_ms": 1000 * self.overhead,
            "load": self.load,
            "cores": self.cores,
            "pooled": self.pooled,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, JsonValue]) -> "Facts":
        """Read what `to_dict` returned."""
        return cls(
            seconds={int(n): ms / 1000 for n, ms in data["ms"].items()},
            overhead=data["overhead_ms"] / 1000,
            load=data["load"],
            cores=data["cores"],
        )


def measure_facts(model: LanguageModel, limit: float, measure: Measure | None = None) -> Facts:
    """Measure the costs of a target in about `limit` seconds, and a few more for a large model.

    Args:
        model: the target.
        limit: seconds for the forwards.
        measure: measures the forwards; None times them.
    """
    widths = [n for n in WIDTHS if n < model.info.context_length]
    seconds = (measure or _timed)(model, widths, limit)
    overhead = round_overhead(model)
    return Facts(seconds=seconds, overhead=overhead, load=load_average(), cores=cores())


def _timed(model: LanguageModel, widths: Sequence[int], limit: float) -> Mapping[int, float]:
    return forward_seconds(
        model, widths, repeats=REPEATS, limit=limit, least=6, summary=lower_quartile
    )


def lower_quartile(values: Sequence[float]) -> float:
    """Return the value that a quarter of `values` lie below."""
    return float(np.quantile(values, 0.25))
