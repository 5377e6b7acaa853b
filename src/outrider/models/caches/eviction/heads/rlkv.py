"""RLKV: the heads that reasoning needs, found by reinforcement learning."""

from dataclasses import dataclass
from typing import ClassVar

from outrider.models.caches.eviction.heads.head_gates import HeadGates
from outrider.models.caches.eviction.record import KvMethod
from outrider.protocols.method import Paper


@dataclass(frozen=True, kw_only=True)
class RLKV(HeadGates):
    """Heads with high gates keep all rows, the others 16 first and 64 recent ones. Raises
    `OptionError` for a bad option or file."""

    name: ClassVar[str] = "rlkv"


METHOD = KvMethod(
    name="rlkv",
    cls=RLKV,
    summary="Like duo; gates are trained by reinforcement learning on tasks with known answers",
    paper=Paper(
        "RLKV: Which Heads Matter for Reasoning? RL-Guided KV Cache Compression", "2510.08525"
    ),
    needs="a file of gates (`outrider train gates`)",
    memory="all rows of some heads",
)
