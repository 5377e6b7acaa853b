"""Loads the kernels, and creates the threads that they run on."""

import ctypes
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from outrider.kernels.amx import use_tiles
from outrider.kernels.compile import KernelBuildError, shared_library
from outrider.kernels.layout import (
    Batch,
    CacheLayout,
    DraftHead,
    HeadRows,
    HintTable,
    Matrix,
    Model,
    Promise,
    SamplerLayout,
)
from outrider.kernels.prebuilt import prebuilt_library

_SWITCH = "OUTRIDER_KERNELS"
"""The environment variable that disables the kernels with the value `off`, and with `native`
compiles them for this processor where the wheel holds compiled ones."""


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(_SWITCH, "").lower() in ("off", "0", "no"):
        return None, f"{_SWITCH} is off"
    try:
        loaded, file = _open()
        _declare(loaded)
        use_tiles(loaded, file)
    except (KernelBuildError, OSError, AttributeError) as error:
        return None, str(error)
    return loaded, ""


def _open() -> tuple[ctypes.CDLL, Path]:
    if os.environ.get(_SWITCH, "").lower() != "native" and (file := prebuilt_library()):
        return _opened(file)
    with suppress(OSError):  # another process may replace the file after it was checked
        return _opened(shared_library())
    return _opened(shared_library())


def _opened(file: Path) -> tuple[ctypes.CDLL, Path]:
    return ctypes.CDLL(str(file)), file


def library() -> ctypes.CDLL | None:
    """Return the kernels: those of the wheel, or compiled at the first call; None without both."""
    return _load()[0]


def available() -> bool:
    """Whether the kernels can be used; see `library`."""
    return library() is not None


def reason_missing() -> str:
    """Return the reason why there are no kernels, in one line; empty if there are."""
    return _load()[1]


def cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def pool() -> ctypes.c_void_p:
    """Return the thread pool of this process for the kernels, with one thread per processor."""
    loaded = library()
    assert loaded is not None
    return ctypes.c_void_p(loaded.outrider_pool_new(cores()))


if hasattr(os, "register_at_fork"):  # a forked process has no threads
    os.register_at_fork(after_in_child=pool.cache_clear)


def _declare(loaded: ctypes.CDLL) -> None:
    """Declare the types of arguments; arrays are passed as addresses."""
    address, i32, u64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint64
    model, batch, sampler = (ctypes.POINTER(kind) for kind in (Model, Batch, SamplerLayout))
    loaded.outrider_pool_new.argtypes = [i32]
    loaded.outrider_pool_new.restype = address
    loaded.outrider_pool_free.argtypes = [address]
    loaded.outrider_pool_free.restype = None
    loaded.outrider_forward.argtypes = [model, address, i32, batch]
    loaded.outrider_forward.restype = i32
    loaded.outrider_embed.argtypes = [model, i32, address, address]
    loaded.outrider_embed.restype = None
    loaded.outrider_offset.argtypes = []
    loaded.outrider_offset.restype = i32
    loaded.outrider_choose.argtypes = [address, i32, sampler, u64, address, address, address]
    loaded.outrider_choose.restype = i32
    loaded.outrider_amx_permitted.argtypes = []
    loaded.outrider_amx_permitted.restype = i32
    loaded.outrider_amx_use.argtypes = [i32]
    loaded.outrider_amx_use.restype = i32
    i64 = ctypes.c_int64
    best = [address, i64, i32, i32, i32, address, address, address]
    loaded.outrider_topk.argtypes = best
    loaded.outrider_topk.restype = None
    loaded.outrider_blend.argtypes = [i32, address, address, i32, *[address] * 5]
    loaded.outrider_blend.restype = None
    cache = ctypes.POINTER(CacheLayout)
    loaded.outrider_move.argtypes = [cache, cache, *[i32] * 5]
    loaded.outrider_move.restype = None
    loaded.outrider_gather.argtypes = [cache, cache, i32, i32, *[address] * 3]
    loaded.outrider_gather.restype = None
    loaded.outrider_turn.argtypes = [cache, i64, i32, i32, address, address]
    loaded.outrider_turn.restype = None
    writing = [model, address, i32, i32, batch, sampler, u64, i32, address, i32, address, address]
    loaded.outrider_write.argtypes = writing
    loaded.outrider_write.restype = i32
    loaded.outrider_unpack.argtypes = [ctypes.POINTER(Matrix), i32, address, address]
    loaded.outrider_unpack.restype = None
    head, rows, hints = (ctypes.POINTER(kind) for kind in (DraftHead, HeadRows, HintTable))
    loaded.outrider_head.argtypes = [head, address, i32, batch, rows, address]
    loaded.outrider_head.restype = i32
    drafting = [head, address, i32, i32, batch, rows, hints, i32, sampler, u64, i32, address, i32]
    promise = ctypes.POINTER(Promise)
    loaded.outrider_head_write.argtypes = [*drafting, promise, address, address, address]
    loaded.outrider_head_write.restype = i32
    loaded.outrider_hints_add.argtypes = [hints, i32, i32, address, i32, address, address]
    loaded.outrider_hints_add.restype = None
    loaded.outrider_hint.argtypes = [hints, i32, i32, address]
    loaded.outrider_hint.restype = i32
    repacking = [ctypes.POINTER(Matrix), i32, address, i32, i32, address, i32]
    loaded.outrider_repack.argtypes = repacking
    loaded.outrider_repack.restype = i32
