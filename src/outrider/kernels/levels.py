"""Levels of x86-64 processors for which a wheel holds compiled kernels."""

from dataclasses import dataclass
from pathlib import Path

_V2 = frozenset(("cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"))
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One build of the kernels.

    Attributes:
        name: its name, which is a part of the name of the library.
        options: options of the compiler.
        needs: features that a processor must have, by their names in `/proc/cpuinfo`.
    """

    name: str
    options: tuple[str, ...]
    needs: frozenset[str] = frozenset()


LEVELS = (
    Level(
        name="avx512-vnni",
        options=("-march=x86-64-v4", "-mavx512vnni"),
        needs=_V4 | {"avx512_vnni"},
    ),
    Level(name="avx512", options=("-march=x86-64-v4",), needs=_V4),
    Level(name="avx2-vnni", options=("-march=x86-64-v3", "-mavxvnni"), needs=_V3 | {"avx_vnni"}),
    Level(name="avx2", options=("-march=x86-64-v3",), needs=_V3),
    Level(name="plain", options=("-march=x86-64",)),
)
"""Fastest first; the last one runs on every x86-64 processor. Builds with AVX-512 hold
kernels for AMX too, which are used where they run (`amx.py`)."""


def fitting(features: frozenset[str]) -> list[Level]:
    """Return the levels that a processor with these features can run, fastest first."""
    return [level for level in LEVELS if level.needs <= features]


def features() -> frozenset[str]:
    """Return the features of this processor that Linux lets programs use; empty if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").partition(":")[2].split())
