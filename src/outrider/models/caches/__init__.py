"""Caches of keys and values, and the rows that belong to each text."""
