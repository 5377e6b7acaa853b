"""StreamingLLM: the first rows of a text and the most recent ones."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import BoolArray, IntArray
from outrider.models.caches.eviction.policy import Choice, Eviction, KvPolicy, Shape, View, ends
from outrider.models.caches.eviction.record import KvMethod
from outrider.protocols.method import Paper

_SINKS = Range(0, whole=True, hint="Give the rows at the beginning that stay, such as 4")


@dataclass(frozen=True, kw_only=True)
class Streaming(KvPolicy):
    """Keeps the first `sinks` rows and the most recent ones, `budget` together.

    The memory is constant for a budget in rows. With `positions="packed"`, the sinks stand right
    before the recent rows, at the positions that they would have if nothing had been between them.
    Then no distance exceeds the window for which the model was trained, and the text may.

    Attributes:
        sinks: rows at the beginning that are never dropped.
        positions: `packed` or `original`.

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = "streaming"

    budget: float = 512
    chunk: int = 64
    sinks: int = 4
    positions: str = "packed"

    def __post_init__(self) -> None:
        super().__post_init__()
        _SINKS.check("sinks", self.sinks)
        if self.positions not in ("packed", "original"):
            raise OptionError(
                f"positions is {self.positions!r}", hint="Use positions=packed or original"
            )
        if self.budget > 1 and self.budget <= self.sinks:
            raise OptionError(
                f"the budget of {self.budget:g} rows holds the {self.sinks} sinks and no other row",
                hint="Give a larger budget, such as 512",
            )

    @property
    def moves(self) -> bool:
        """Whether sinks stand right before the recent rows."""
        return self.positions == "packed" and self.budget > 1

    def archived(self, rows: int) -> int:
        """The keys of sinks are stored as they were read, since they move again and again."""
        return min(self.sinks, rows) if self.positions == "packed" else 0

    def begin(self, shape: Shape) -> Eviction:
        """Return the policy for one text.

        Raises:
            OptionError: recent rows do not fit into the window of the model.
        """
        if self.moves and self.budget + self.every >= shape.context_length:
            raise OptionError(
                f"a budget of {self.budget:g} rows and {self.every} new ones exceed the window of "
                f"{shape.context_length} tokens",
                hint="Give a smaller budget, or positions=original",
            )
        return _Ends(self)


class _Ends(Eviction):
    """`Streaming` for one text; it needs no state."""

    def __init__(self, policy: Streaming) -> None:
        self._policy = policy

    def asks(self, rows: IntArray, prompt: int) -> BoolArray | None:
        return None

    def choose(self, view: View) -> Choice | None:
        policy, shape = self._policy, view.shape
        budget = policy.budget_of(view.rows)
        recent = max(budget - policy.sinks, 1)
        if policy.sinks + recent >= view.rows:
            return None
        rows = ends(np.arange(view.rows), policy.sinks, recent)
        everything = np.arange(view.rows)
        reads_all = [shape.reads_all[plane // shape.num_kv_heads] for plane in range(shape.planes)]
        move = view.rows - recent - policy.sinks
        turns = np.full(policy.sinks, move if policy.positions == "packed" else 0)
        none = turns[:0]
        return Choice(
            rows=[rows if own else everything for own in reads_all],
            turns=[turns if own else none for own in reads_all] if move else (),
        )

    def copy(self) -> "Eviction":
        return self


METHOD = KvMethod(
    name="streaming",
    cls=Streaming,
    summary="Keeps the first and the most recent rows, at positions within the window",
    paper=Paper(
        "StreamingLLM: Efficient Streaming Language Models with Attention Sinks", "2309.17453"
    ),
    memory="constant: budget rows of each head",
)
