"""Guidance that adds what was stored for similar contexts."""
