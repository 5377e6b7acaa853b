"""Drawn scenes with everything that is true of them."""
