"""Strategies that write several whole texts."""
