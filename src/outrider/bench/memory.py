"""Measures the resident memory of this process, and the bandwidth of the machine's memory."""

import os
import resource
import sys
from time import perf_counter
from typing import Any

import numpy as np

MIB = 1 << 20
_LEAST_BYTES = 256 * MIB
_CACHES = "/sys/devices/system/cpu/cpu0/cache"


def reset_peak() -> bool:
    """Reset the peaks; return false if the system cannot reset that of resident memory (only Linux
    can).
    """
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """Return the peak resident bytes since `reset_peak`, or else since the start of the process.

    All memory of the process counts: all models of the run, and the interpreter.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_peak_bytes() -> int:
    """Return the peak bytes that PyTorch held on a CUDA device since `reset_peak`; 0 without
    one.
    """
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0


def bandwidth_gb_s(threads: int, device: Any = None, *, seconds: float = 1.0) -> float:
    """Measure the memory bandwidth of a streaming read, in 10^9 bytes per second: the best of
    several passes.

    Args:
        threads: number of PyTorch's CPU threads; each reads its own part.
        device: a `torch.device`; None means the CPU.
        seconds: duration of the measurement.

    The buffer is several times the size of the last-level cache, so that little of it is cached
    when the next pass begins.
    """
    import torch

    place = torch.device("cpu") if device is None else device
    size = max(_LEAST_BYTES, 4 * last_level_cache()) if place.type == "cpu" else 1024 * MIB
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        buffer = torch.ones(size // 8, dtype=torch.int64, device=place)
        best = min(_passes(buffer, seconds))
    finally:
        torch.set_num_threads(before)
    return buffer.numel() * 8 / best / 1e9


def _passes(buffer: Any, seconds: float) -> list[float]:
    """Time each pass over `buffer`: a sum, which reads everything and writes nothing."""
    import torch

    times: list[float] = []
    begun = perf_counter()
    while perf_counter() - begun < seconds or len(times) < 3:
        start = perf_counter()
        buffer.sum()
        if buffer.is_cuda:
            torch.cuda.synchronize(buffer.device)
        times.append(perf_counter() - start)
    return times


def last_level_cache() -> int:
    """Return the bytes of the largest CPU cache that the system reports; 32 MiB if it reports
    none.
    """
    sizes = [32 * MIB]
    try:
        for entry in os.listdir(_CACHES):
            if entry.startswith("index"):
                with open(f"{_CACHES}/{entry}/size", encoding="ascii") as file:
                    sizes.append(_size(file.read().strip()))
    except (OSError, ValueError):
        pass
    return int(np.max(sizes))


def _size(text: str) -> int:
    units = {"K": 1 << 10, "M": MIB, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)
