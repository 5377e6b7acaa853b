"""Grammars that restrict what a model writes: engines, and how their grammars are compiled."""

from outrider.constraints.grammars import Grammars

__all__ = ["Grammars"]
