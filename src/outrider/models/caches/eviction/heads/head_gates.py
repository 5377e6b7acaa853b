"""Heads of two kinds: retrieval heads keep all rows, streaming heads the first and the recent ones.

What `duo.py` and `rlkv.py` share. They differ in how the gates that tell the kinds apart are
trained (`training/gates`).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import BoolArray, IntArray
from outrider.models.caches.eviction.heads.gates import Gates
from outrider.models.caches.eviction.policy import (
    Choice,
    Eviction,
    KvPolicy,
    Shape,
    View,
    ends,
    with_planes,
)

_ROWS = Range(0, whole=True, hint="Give a number of rows, such as 64")


@dataclass(frozen=True, kw_only=True)
class HeadGates(KvPolicy):
    """Options of policies that tell two kinds of heads apart.

    The budget is the share of heads that keep all rows, among those of layers without a window.

    Attributes:
        gates: a file of gates for this model.
        sinks: rows at the beginning that the other heads keep.
        recent: recent rows that the other heads keep.

    Raises:
        OptionError: a value is out of range, or the file cannot be read.
    """

    gates: str | Gates
    budget: float = 0.5
    chunk: int = 64
    sinks: int = 16
    recent: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        _ROWS.check("sinks", self.sinks)
        _ROWS.check("recent", self.recent)
        if self.budget > 1:
            raise OptionError(
                f"the budget is {self.budget:g}, and it is the share of heads that keep all rows",
                hint="Give a share up to 1, such as 0.5",
            )
        if not self.every:
            raise OptionError(
                "heads drop rows at points, and there are none in the answer",
                hint="Give every, such as every=64",
            )
        _ = self.loaded

    @cached_property
    def loaded(self) -> Gates:
        """The gates. Raises `OptionError` for a file that holds none."""
        return self.gates if isinstance(self.gates, Gates) else Gates.load(self.gates)

    def begin(self, shape: Shape) -> Eviction:
        """Return the policy for one text.

        Raises:
            OptionError: the gates are those of another model.
        """
        self.loaded.check(shape.find_fingerprint(), shape.num_layers, shape.num_kv_heads)
        return _TwoKinds(self, shape)


class _TwoKinds(Eviction):
    """`HeadGates` for one text; it needs no state."""

    def __init__(self, policy: HeadGates, shape: Shape) -> None:
        self._policy = policy
        reads_all = np.array(shape.reads_all)
        self._full = np.ones((shape.num_layers, shape.num_kv_heads), dtype=np.bool_)
        if reads_all.any():  # heads of layers with windows have no far rows to keep
            own = replace(policy.loaded, values=policy.loaded.values[reads_all])
            self._full[reads_all] = own.full_heads(1 - policy.budget)

    def asks(self, rows: IntArray, prompt: int) -> BoolArray | None:
        return None

    def choose(self, view: View) -> Choice | None:
        policy = self._policy
        if view.rows <= policy.sinks + policy.recent:
            return None
        rows = ends(np.arange(view.rows), policy.sinks, policy.recent)
        return with_planes(view, [None if full else rows for full in self._full.ravel()])

    def copy(self) -> "Eviction":
        return self
