"""Kernels that a wheel holds already compiled; the best library for the processor is chosen."""

import hashlib
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

from outrider.kernels.cache import LIMITS, KernelWarning, private_folder, write_private
from outrider.kernels.compile import FLAGS, hash_of, processor
from outrider.kernels.levels import Level, features, fitting

FOLDER = Path(__file__).parent / "prebuilt"
"""Exists in wheels for one platform only; see `scripts/build_wheel.py`."""

_PROBE = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1])[sys.argv[2]]() != 1)"
_PROBE_SECONDS = 60.0


def prebuilt_library(found: frozenset[str] | None = None) -> Path | None:
    """Return the library of the highest level that runs on this processor, None if there is none.

    Its name holds a hash of the sources and options, which must be those of this package, and the
    SHA-256 of its content. A library with another content is never returned, and a `KernelWarning`
    names it. Neither is one whose instructions fail in a child process (`runs`).

    Args:
        found: features of the processor; None asks the system.
    """
    if not FOLDER.is_dir():
        return None
    for level in fitting(features() if found is None else found):
        for file in sorted(FOLDER.glob(f"{stem_of(level)}-*.so")):
            if not is_intact(file):
                warnings.warn(f"{file} is damaged and not used", KernelWarning, stacklevel=2)
            elif runs(file, "outrider_probe"):
                return file
    return None


def stem_of(level: Level) -> str:
    """Return the name of the library of a level, without its checksum and ending."""
    return f"kernels-{level.name}-{hash_of(' '.join([*FLAGS, *level.options]))}"


def is_intact(file: Path) -> bool:
    """Whether a library has the content whose checksum is in its name."""
    try:
        if file.stat().st_size > LIMITS.file_bytes:
            return False
        return hashlib.sha256(file.read_bytes()).hexdigest() == file.stem.rpartition("-")[2]
    except OSError:
        return False


def runs(file: Path, probe: str) -> bool:
    """Whether instructions of a library work: some virtual machines announce what they trap.

    A child process runs them once; success is remembered in the cache, if that can be written.

    Args:
        file: the library.
        probe: its function that runs them, and returns 1 if the results are right.
    """
    mark = _mark(file, probe)
    if mark is not None and mark.is_file():
        return True
    command = [sys.executable, "-I", "-S", "-c", _PROBE, str(file), probe]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PROBE_SECONDS, check=False, env={}
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    if done.returncode == 0 and mark is not None:
        with suppress(OSError):
            write_private(mark, b"")
    return done.returncode == 0


def _mark(file: Path, probe: str) -> Path | None:
    """Return the file whose existence says that a probe has succeeded on this processor."""
    known = hashlib.sha256(f"{file.stem} {probe} {processor()}".encode()).hexdigest()[:16]
    try:
        return private_folder("kernels") / f"runs-{known}"
    except OSError:
        return None
