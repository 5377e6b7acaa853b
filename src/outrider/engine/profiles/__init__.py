"""Profiles of `outrider tune`, as `load` uses them."""
