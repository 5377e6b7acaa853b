"""Kernels in C for the CPU: from the wheel, or compiled once on the user's machine and cached.

`library()` returns the loaded kernels, or None if they cannot be compiled. All callers have a
slower implementation for this case, so a missing compiler reduces only the speed.
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
