"""Guidance by a second prompt that is derived from the first."""
