"""Compiled kernels for the CPU: C sources, compiled once on the user's machine and kept.

`library()` gives the loaded kernels, or None where they cannot be had; everything that uses them
has another way, so a missing compiler costs speed and nothing else.
"""

from outrider.kernels.blend import blend
from outrider.kernels.choose import NOT_FINITE, NOTHING_ALLOWED, PlainSampler, choose
from outrider.kernels.library import available, library, pool, reason_missing
from outrider.kernels.topk import topk

__all__ = [
    "NOTHING_ALLOWED",
    "NOT_FINITE",
    "PlainSampler",
    "available",
    "blend",
    "choose",
    "library",
    "pool",
    "reason_missing",
    "topk",
]
