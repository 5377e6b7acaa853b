"""Lazy imports: packages whose names are imported on first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def on_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of `package` (PEP 562). It keeps `outrider --help` fast, because
    PyTorch is imported only when a name needs it.

    Args:
        package: its `__name__`.
        homes: name -> the module that defines it, relative to `package`, or absolute if it starts
            with `outrider.`.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = home if home.startswith("outrider.") else f"{package}.{home}"
        return getattr(import_module(module), name)

    return get
