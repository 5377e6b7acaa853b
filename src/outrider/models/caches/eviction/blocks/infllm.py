"""InfLLM: blocks of old rows, fetched by the mean of the latest queries."""

from dataclasses import dataclass
from typing import ClassVar

from outrider.models.caches.eviction.blocks.retrieval import Blocks, Retrieval
from outrider.models.caches.eviction.policy import Eviction, Shape
from outrider.models.caches.eviction.record import KvMethod
from outrider.protocols.method import Paper


@dataclass(frozen=True, kw_only=True)
class InfLLM(Retrieval):
    """Reads the first rows, recent rows, and blocks of old rows whose representatives have the
    highest products with the mean of the latest queries. Raises `OptionError` for a bad option."""

    name: ClassVar[str] = "infllm"

    def begin(self, shape: Shape) -> Eviction:
        """Return the policy for one text. Raises `OptionError` if it does not fit the model."""
        self.check(shape)
        return Blocks(self, shape)


METHOD = KvMethod(
    name="infllm",
    cls=InfLLM,
    summary="Reads recent rows, and blocks of old ones that fit the latest queries",
    paper=Paper("InfLLM: Training-Free Long-Context Extrapolation", "2402.04617"),
    memory="all rows, and a second copy of those that are read",
)
