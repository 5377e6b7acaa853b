"""Measurements of masked draft models (`deer`)."""
