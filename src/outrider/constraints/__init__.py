"""Grammars that restrict what a model writes: engines, and how their grammars are compiled."""

from typing import TYPE_CHECKING

from outrider.core.lazy import on_first_use

if TYPE_CHECKING:
    from outrider.constraints.grammars import Grammars, check_constraint

__all__ = ["Grammars", "check_constraint"]

__getattr__ = on_first_use(__name__, {"Grammars": "grammars", "check_constraint": "grammars"})
