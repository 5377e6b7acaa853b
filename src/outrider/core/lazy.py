"""Packages whose names are imported on first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def on_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of `package` (PEP 562): `outrider --help` must not wait for PyTorch.

    Args:
        package: its `__name__`.
        homes: name -> the module that defines it: below `package`, or from `outrider.` on.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = home if home.startswith("outrider.") else f"{package}.{home}"
        return getattr(import_module(module), name)

    return get
