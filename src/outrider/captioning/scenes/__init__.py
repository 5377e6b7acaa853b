"""Drawn scenes with a complete description of their content."""
