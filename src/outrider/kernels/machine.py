"""What this machine is called, for records of measurements."""

import os
import platform
from functools import cache


@cache
def cpu_name() -> str:
    """Return the name of the processor, as the system knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load_average() -> float | None:
    """Return how many processes wanted to run in the last minute; None if the system does not
    say."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None
