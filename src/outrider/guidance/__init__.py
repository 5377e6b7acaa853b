"""Mixing what several readings of a text say next."""
