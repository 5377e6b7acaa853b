"""Names of devices and dtypes, as options give them."""

import torch

from outrider.core.errors import OptionError, nearest
from outrider.models.cpu.cache import CACHE_DTYPES

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    **dict.fromkeys(("int8", "int8-channels", "int4", "stored"), torch.int8),
}
"""Dtypes of weights. Those of integers exist only in the compiled runner for the CPU."""


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return an available device. `auto` uses the first GPU, else the CPU.

    Raises:
        OptionError: the name is unknown, or this machine has no such device.
    """
    spelled = str(name)
    if spelled == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    kind, _, index = spelled.partition(":")
    known = ("auto", "cpu", "cuda", "mps")
    if kind not in known or (index and not (kind == "cuda" and index.isdigit())):
        raise OptionError(f"unknown device {spelled!r}", hint=nearest(spelled, (*known, "cuda:0")))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise OptionError("device mps is not available here", hint="Use cpu")
    if kind == "cuda":
        return _cuda(int(index or 0))
    return torch.device(kind)


def _cuda(index: int) -> torch.device:
    count = torch.cuda.device_count()
    if index >= count:
        hint = f"Use cuda:0 to cuda:{count - 1}" if count else "Use cpu, or a CUDA build of PyTorch"
        raise OptionError(f"device cuda:{index} is not available here", hint=hint)
    return torch.device("cuda", index)


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return a dtype by name.

    `auto` is bfloat16 on CUDA and float32 elsewhere; on the CPU `load_model` then uses the fastest
    dtype that costs almost no quality (see `quality.py`). Dtypes of integers are `torch.int8` here.

    Raises:
        OptionError: the name is unknown, or the device does not support the dtype.
    """
    spelled = str(name).removeprefix("torch.")
    if spelled == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if spelled not in DTYPES:
        raise OptionError(f"unknown dtype {spelled!r}", hint=nearest(spelled, ("auto", *DTYPES)))
    if spelled == "float64" and device.type == "mps":
        raise OptionError("device mps has no float64", hint="Use float32")
    return DTYPES[spelled]


def check_cache_dtype(name: str) -> None:
    """Check the name of a dtype of keys and values. Raises `OptionError`."""
    if name not in ("auto", *CACHE_DTYPES):
        hint = nearest(name, ("auto", *CACHE_DTYPES))
        raise OptionError(f"unknown cache_dtype {name!r}", hint=hint)
