"""Products of whole tiles (Intel AMX), which read long prompts faster: whether they are used."""

import ctypes
import os
from pathlib import Path

from outrider.kernels.prebuilt import runs

_SWITCH = "OUTRIDER_AMX"
"""The environment variable that, with the value `off`, leaves these instructions alone."""


def use_tiles(loaded: ctypes.CDLL, file: Path) -> bool:
    """Let the kernels use tiles where the processor, the system and the user permit them.

    A virtual machine may announce the instructions and refuse them, which ends a process. So a
    child process tries them first, once for each library and processor.

    Args:
        loaded: the kernels.
        file: where they were loaded from.

    Returns:
        Whether tiles are used. If not, the kernels do the same work with vectors.
    """
    wanted = os.environ.get(_SWITCH, "").lower() not in ("off", "0", "no")
    works = wanted and loaded.outrider_amx_permitted() and runs(file, "outrider_amx_probe")
    return bool(loaded.outrider_amx_use(int(bool(works))))
