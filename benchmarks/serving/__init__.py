"""Measurements of the engine that serves, without HTTP."""
