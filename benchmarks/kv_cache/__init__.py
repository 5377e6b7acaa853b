"""Measurements of what a cache holds."""
