"""Measurements of guidance."""
