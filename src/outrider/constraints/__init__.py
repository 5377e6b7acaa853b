"""Grammars that restrict what a model writes: engines, and how their grammars are compiled."""

from outrider.constraints.grammars import Grammars, check_constraint

__all__ = ["Grammars", "check_constraint"]
