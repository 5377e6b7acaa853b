"""Compiled kernels for the CPU: C sources, compiled once on the user's machine and kept.

`library()` gives the loaded kernels, or None where they can not be had; everything that uses them
has another way, so a missing compiler costs speed and nothing else.
"""

from outrider.kernels.choose import choose
from outrider.kernels.library import available, library, pool, reason_missing

__all__ = ["available", "choose", "library", "pool", "reason_missing"]
