"""DuoAttention: retrieval heads, found by how much final states need their far rows."""

from dataclasses import dataclass
from typing import ClassVar

from outrider.models.caches.eviction.heads.head_gates import HeadGates
from outrider.models.caches.eviction.record import KvMethod
from outrider.protocols.method import Paper


@dataclass(frozen=True, kw_only=True)
class Duo(HeadGates):
    """Heads with high gates keep all rows, the others the first and the recent ones. Raises
    `OptionError` for a bad option or file."""

    name: ClassVar[str] = "duo"

    sinks: int = 64
    recent: int = 256


METHOD = KvMethod(
    name="duo",
    cls=Duo,
    summary="Some heads keep all rows, the others the first and recent ones, by trained gates",
    paper=Paper("DuoAttention: Efficient Long-Context LLM Inference", "2410.10819"),
    needs="a file of gates (`outrider train gates`)",
    memory="all rows of some heads",
)
