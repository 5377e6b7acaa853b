"""Checkpoints on disk: those of the tests of the engine."""

from tests.engine.conftest import folders

__all__ = ["folders"]
