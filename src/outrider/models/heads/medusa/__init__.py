"""Medusa heads: a small network for each of the next places."""
